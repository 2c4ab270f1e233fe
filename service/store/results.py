"""The columns of jobs that results are computed from, for many jobs at once."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Unprocessable
from service.experiments.runs import Run, Speed
from service.store.listing import JobFilter
from service.store.tables import Attempt, Job, JobLabel, Metric

MAX_RUNS = 5000
"""The number of jobs that one table may have."""


async def runs(session: AsyncSession, filter_: JobFilter, *, labelled: bool = False) -> Sequence[Run]:
    """Return the jobs of a filter, oldest first, `labelled` with their labels. A retry replaces what it repeats.

    Raises:
        Unprocessable: There are more than `MAX_RUNS` jobs.
    """
    retried = select(Job.retry_of).where(Job.retry_of.is_not(None))
    if filter_.experiment is not None:
        retried = retried.where(Job.experiment_id == filter_.experiment)
    wanted = filter_.apply(select(Job.id)).where(Job.id.not_in(retried))
    query = (
        filter_.apply(select(Job.id, Job.status, Job.seed, Job.spec, Job.summary, Job.progress, Job.cell))
        .where(Job.id.not_in(retried))
        .order_by(Job.created_at, Job.id)
        .limit(MAX_RUNS + 1)
    )
    found = (await session.execute(query)).all()
    if len(found) > MAX_RUNS:
        raise Unprocessable(f"These are more than {MAX_RUNS} jobs: narrow them by experiment, label or model.")
    used = await _use(session, wanted)
    labels = await _labels(session, wanted) if labelled else {}
    unused: _Use = (None, None, 0.0, {})
    return [
        Run(id_, status, seed, spec, summary, progress, *used.get(id_, unused), cell, labels.get(id_, {}))
        for id_, status, seed, spec, summary, progress, cell in found
    ]


_Use = tuple[str | None, str | None, float, dict[str, str]]
"""The device, the precision, the worker seconds and the versions of a job, as the fields of a `Run`."""


async def _use(session: AsyncSession, job_ids: Select[Any]) -> dict[str, _Use]:
    query = (
        select(
            Attempt.job_id,
            Attempt.device,
            Attempt.precision,
            Attempt.versions,
            Attempt.started_at,
            Attempt.ended_at,
            Job.num_workers,
        )
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.job_id.in_(job_ids))
        .order_by(Attempt.job_id, Attempt.number)
    )
    now = datetime.now(UTC)
    held_s: defaultdict[str, float] = defaultdict(float)
    last: dict[str, tuple[str | None, str | None, dict[str, str] | None]] = {}
    for job_id, device, precision, versions, began, ended, workers in await session.execute(query):
        held_s[job_id] += workers * ((ended or now) - began).total_seconds()
        if device is not None or job_id not in last:
            last[job_id] = (device, precision, versions)
    return {
        job_id: (device, precision, held_s[job_id], versions or {})
        for job_id, (device, precision, versions) in last.items()
    }


async def _labels(session: AsyncSession, job_ids: Select[Any]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for job_id, key, value in await session.execute(
        select(JobLabel.job_id, JobLabel.key, JobLabel.value).where(JobLabel.job_id.in_(job_ids))
    ):
        found.setdefault(job_id, {})[key] = value
    return found


async def values_at(session: AsyncSession, filter_: JobFilter, metric: str, step: int) -> dict[str, float | None]:
    """Return the value of a metric at a step, by job. Jobs without a value are omitted."""
    query = select(Metric.job_id, Metric.values).where(
        Metric.job_id.in_(filter_.job_ids()), Metric.step == step, ~Metric.superseded
    )
    return {job_id: values[metric] for job_id, values in await session.execute(query) if metric in values}


async def speeds(session: AsyncSession, models: Sequence[str], limit: int = 500) -> Sequence[Speed]:
    """Return the speeds of jobs on these models, newest first."""
    images_per_s = Job.summary["images_per_s"]["last"].as_float()
    evaluated = Job.progress["eval_images_per_s"].as_float()
    query = (
        select(Job.model, Job.batch_size, Attempt.device, images_per_s / Job.num_workers, evaluated / Job.num_workers)
        .join(Attempt, Attempt.id == Job.attempt_id)
        .where(Job.model.in_(models), Attempt.device.is_not(None), images_per_s > 0)
        .order_by(Job.created_at.desc())
        .limit(limit)
    )
    return [Speed(*row) for row in await session.execute(query)]
