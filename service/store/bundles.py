"""Export of experiments from the database to a bundle, and import from a bundle."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict
from service.experiments.bundle import Bundle, BundleError
from service.experiments.bundle.lines import (
    AttemptLine,
    CheckpointLine,
    EventLine,
    ExperimentFile,
    JobLine,
    MetricLine,
)
from service.jobs import TERMINAL
from service.store import precisions
from service.store.database import lock_events
from service.store.metrics import SUMMARIZED, sort_by_summary, summarize
from service.store.tables import Attempt, Checkpoint, Event, Experiment, Job, JobLabel, Metric, Table

LINES: dict[str, tuple[type[Attempt | Metric | Event], type[AttemptLine | MetricLine | EventLine]]] = {
    "attempts.jsonl": (Attempt, AttemptLine),
    "metrics.jsonl": (Metric, MetricLine),
    "events.jsonl": (Event, EventLine),
}
"""The files of a bundle whose lines are rows of a table."""
CHUNK = 1000
_TOLD = ("status", "started", "log")


async def jobs_to_export(session: AsyncSession, experiment_id: str) -> Sequence[Job]:
    """Return the jobs of an experiment, oldest first. Raises `Conflict` if one has not ended."""
    query = select(Job).where(Job.experiment_id == experiment_id).order_by(Job.created_at, Job.id)
    found = (await session.scalars(query)).all()
    if unfinished := sum(job.status not in TERMINAL for job in found):
        raise Conflict(
            f"Experiment {experiment_id} has {unfinished} jobs that have not ended, and a bundle contains only "
            "ended jobs: wait for them, or cancel them."
        )
    return found


def experiment_file(experiment: Experiment) -> dict[str, Any]:
    """Return the document `experiment.json`."""
    document: dict[str, Any] = _line(experiment, ExperimentFile).model_dump(mode="json")
    return document


async def job_lines(session: AsyncSession, jobs: Sequence[Job]) -> Sequence[str]:
    """Return the lines of `jobs.jsonl`."""
    labels: dict[str, dict[str, str]] = {job.id: {} for job in jobs}
    for some in _chunks(labels):
        for label in await session.scalars(select(JobLabel).where(JobLabel.job_id.in_(some))):
            labels[label.job_id][label.key] = label.value
    return [_line(job, JobLine, labels=labels[job.id]).model_dump_json() for job in jobs]


async def lines_of(session: AsyncSession, name: str, job_id: str) -> Sequence[str]:
    """Return the lines of one job in a file of `LINES`."""
    table, kind = LINES[name]
    query = select(table).where(table.job_id == job_id).order_by(table.id)
    if table is Event:
        query = query.where(Event.type.in_(_TOLD))
    return [_line(row, kind).model_dump_json() for row in await session.scalars(query)]


def checkpoint_line(checkpoint: Checkpoint) -> str:
    """Return the line of a checkpoint in `checkpoints.jsonl`."""
    line: str = _line(checkpoint, CheckpointLine).model_dump_json()
    return line


async def import_bundle(session: AsyncSession, bundle: Bundle) -> tuple[Experiment, bool]:
    """Import the experiment of a bundle. Returns it, and whether it is new; an existing one is not changed.

    Checkpoints are not imported, because only the dispatcher writes their files. Raises `BundleError`, or `Conflict` if
    one of its jobs belongs to another experiment; nothing is stored then.
    """
    read = bundle.experiment
    existing = await session.get(Experiment, read.id)
    if existing is not None:
        return existing, False
    experiment = Experiment(**read.model_dump(), deciding=False)
    session.add(experiment)
    await session.flush()
    await lock_events(session)

    known: set[str] = set()
    summaries: dict[str, dict[str, Any]] = {}
    for jobs in _chunks(bundle.lines("jobs.jsonl", JobLine)):
        ids = [job.id for job in jobs]
        if known & set(ids) or len(set(ids)) < len(ids):
            raise BundleError("jobs.jsonl of the bundle has a job twice")
        if taken := await session.scalar(select(Job.id).where(Job.id.in_(ids)).limit(1)):
            raise Conflict(f"Job {taken} of the bundle already exists in another experiment: nothing was imported.")
        known |= set(ids)
        await session.execute(insert(Job), [_job_row(job, experiment.id) for job in jobs])
        labels = [{"job_id": job.id, "key": key, "value": value} for job in jobs for key, value in job.labels.items()]
        if labels:
            await session.execute(insert(JobLabel), labels)
    for name, (table, kind) in LINES.items():
        for rows in _chunks(bundle.lines(name, kind)):
            if strangers := {row.job_id for row in rows} - known:
                raise BundleError(
                    f"{name} of the bundle refers to job {strangers.pop()}, which jobs.jsonl does not contain"
                )
            await session.execute(insert(table), [row.model_dump() for row in rows])
            for row in rows:
                if isinstance(row, MetricLine) and row.kind in SUMMARIZED and not row.superseded:
                    summaries[row.job_id] = summarize(summaries.get(row.job_id, {}), row.step, row.values)
    await precisions.settle_by_attempts(session, experiment.id)
    for job_id, summary in summaries.items():
        await session.execute(update(Job).where(Job.id == job_id).values(summary=summary))
    for some in _chunks(summaries):
        await sort_by_summary(session, {job_id: summaries[job_id] for job_id in some})
    return experiment, True


def _line(row: Table, kind: Any, **more: Any) -> Any:
    return kind(**{name: getattr(row, name) for name in kind.model_fields if name not in more}, **more)


def _job_row(job: JobLine, experiment_id: str) -> dict[str, Any]:
    return job.model_dump(exclude={"labels"}) | {
        "experiment_id": experiment_id,
        "model": job.spec["model"],
        "normalization": job.spec["normalization"]["type"],
        "batch_size": job.spec["batch_size"],
        "num_workers": job.spec["num_workers"],
        "seed": job.spec["seed"],
        "not_before": None,
        "summary": {},
    }


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk
