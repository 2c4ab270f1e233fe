"""The jobs of an experiment, each with its attempts and its latest checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.store.tables import Attempt, Checkpoint, Job


@dataclass(frozen=True)
class JobRecord:
    """One job with its attempts, oldest first, and its latest checkpoint."""

    job: Job
    attempts: Sequence[Attempt]
    latest_checkpoint: Checkpoint | None


async def of_experiment(session: AsyncSession, experiment_id: str) -> Sequence[JobRecord]:
    """Return the jobs of an experiment, oldest first. Takes three statements, whatever the number of jobs."""
    of_it = select(Job.id).where(Job.experiment_id == experiment_id)
    jobs = await session.scalars(select(Job).where(Job.experiment_id == experiment_id).order_by(Job.created_at, Job.id))
    attempts = await session.scalars(
        select(Attempt).where(Attempt.job_id.in_(of_it)).order_by(Attempt.job_id, Attempt.number)
    )
    attempts_of = {job: list(group) for job, group in groupby(attempts, lambda attempt: attempt.job_id)}
    checkpoints = await session.scalars(
        select(Checkpoint).where(Checkpoint.job_id.in_(of_it)).order_by(Checkpoint.job_id, Checkpoint.step.desc())
    )
    latest = {job: next(group) for job, group in groupby(checkpoints, lambda checkpoint: checkpoint.job_id)}
    return [JobRecord(job, attempts_of.get(job.id, []), latest.get(job.id)) for job in jobs]
