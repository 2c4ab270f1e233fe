"""Export of experiments from the database to a bundle, and import from a bundle."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
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
from service.store import imports, precisions
from service.store.database import Database, DatabaseError, lock_events
from service.store.metrics import SUMMARIZED, sort_by_summary, summarize
from service.store.notifications import Channel, notify
from service.store.tables import Attempt, Checkpoint, Event, Experiment, Job, JobLabel, Metric, Table

LINES: dict[str, tuple[type[Attempt | Metric | Event], type[AttemptLine | MetricLine | EventLine]]] = {
    "attempts.jsonl": (Attempt, AttemptLine),
    "metrics.jsonl": (Metric, MetricLine),
    "events.jsonl": (Event, EventLine),
}
"""The files of a bundle whose lines are rows of a table."""
CHUNK = 500
"""The number of rows that are read or stored at once."""
JOBS_AT_ONCE = 50
"""The number of jobs whose summaries are stored at once."""
_TOLD = ("status", "started", "log")
Rows = tuple[type[Table], list[dict[str, Any]]]
"""Rows of one table."""


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


async def import_bundle(database: Database, bundle: Bundle) -> tuple[str, bool]:
    """Import the experiment of a bundle, which becomes visible once all of it is stored.

    It is read in a thread and stored in slices, so that neither other requests nor other writers wait for it.
    Checkpoints are not imported, because only the dispatcher writes their files.

    Returns:
        The id of the experiment, and whether it is new; an existing one is not changed.

    Raises:
        BundleError: The bundle is not valid.
        Conflict: One of its jobs belongs to another experiment, or another import of the experiment has begun.
        ConstraintViolated: A row occurs twice. Nothing is stored in all three cases.
    """
    experiment = await asyncio.to_thread(lambda: bundle.experiment)
    async with database.write() as session:
        if await session.get(Experiment, experiment.id) is not None:
            return experiment.id, False
        id_ = await imports.begin(session, experiment.id)
    try:
        await imports.remove_rows(database, experiment.id, id_)
        await _store(database, bundle, experiment, id_)
    except Exception:
        # After a later import has begun, or without the database, there is nothing to remove or no way to do it now.
        with suppress(Conflict, DatabaseError):
            await imports.discard(database, experiment.id, id_)
        raise
    return experiment.id, True


async def _store(database: Database, bundle: Bundle, experiment: ExperimentFile, id_: str) -> None:
    reader = _Reader(bundle, experiment.id)
    last: Rows | None = None
    async for rows in _in_a_thread(reader.rows()):
        # The last slice is kept for the last transaction: its events tell clients of the experiment.
        if last is not None:
            async with imports.slice_of(database, experiment.id, id_) as session:
                await _insert(session, last)
        last = rows
    for some in _chunks(reader.summaries.items(), JOBS_AT_ONCE):
        async with imports.slice_of(database, experiment.id, id_) as session:
            await session.execute(update(Job), [{"id": job_id, "summary": summary} for job_id, summary in some])
            await sort_by_summary(session, dict(some))
    async with imports.slice_of(database, experiment.id, id_) as session:
        session.add(Experiment(**experiment.model_dump(), deciding=False))
        await session.flush()
        if last is not None:
            await _insert(session, last)
        await precisions.settle_by_attempts(session, experiment.id)
        await imports.finish(session, experiment.id)
        await notify(session, Channel.EVENTS)


async def _insert(session: AsyncSession, rows: Rows) -> None:
    table, values = rows
    if table is Job:
        ids = [value["id"] for value in values]
        if taken := await session.scalar(select(Job.id).where(Job.id.in_(ids)).limit(1)):
            raise Conflict(f"Job {taken} of the bundle already exists in another experiment: nothing was imported.")
    if table is Event:
        await lock_events(session)
    await session.execute(insert(table), values)


class _Reader:
    """Reads the rows of a bundle, in slices. `summaries` has those of the jobs whose metrics were read."""

    def __init__(self, bundle: Bundle, experiment_id: str) -> None:
        self.summaries: dict[str, dict[str, Any]] = {}
        self._bundle, self._experiment_id = bundle, experiment_id
        self._known: set[str] = set()

    def rows(self) -> Iterator[Rows]:
        """Yield slices of rows of one table, jobs first. Raises `BundleError`."""
        for jobs in _chunks(self._bundle.lines("jobs.jsonl", JobLine)):
            ids = [job.id for job in jobs]
            if self._known & set(ids) or len(set(ids)) < len(ids):
                raise BundleError("jobs.jsonl of the bundle has a job twice")
            self._known |= set(ids)
            yield Job, [_job_row(job, self._experiment_id) for job in jobs]
            labels = [(job.id, *label) for job in jobs for label in job.labels.items()]
            if labels:
                yield JobLabel, [{"job_id": id_, "key": key, "value": value} for id_, key, value in labels]
        for name, (table, kind) in LINES.items():
            for lines in _chunks(self._bundle.lines(name, kind)):
                if strangers := {line.job_id for line in lines} - self._known:
                    raise BundleError(
                        f"{name} of the bundle refers to job {strangers.pop()}, which jobs.jsonl does not contain"
                    )
                self._summarize(lines)
                yield table, [line.model_dump() for line in lines]

    def _summarize(self, lines: Iterable[Any]) -> None:
        for line in lines:
            if isinstance(line, MetricLine) and line.kind in SUMMARIZED and not line.superseded:
                summary = self.summaries.get(line.job_id, {})
                self.summaries[line.job_id] = summarize(summary, line.step, line.values)


async def _in_a_thread(rows: Iterator[Rows]) -> AsyncIterator[Rows]:
    """Yield what an iterator yields, which runs in a thread."""
    while (found := await asyncio.to_thread(next, rows, None)) is not None:
        yield found


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


def _chunks(rows: Iterable[Any], size: int | None = None) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, size or CHUNK)):
        yield chunk
