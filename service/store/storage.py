"""How much the checkpoints take, by experiment and by job. Their files are in the artifact store."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.store.tables import Checkpoint, Experiment, Job


@dataclass(frozen=True)
class Taken:
    """What checkpoints take together.

    Attributes:
        jobs: The number of jobs that have them.
        checkpoints: Their number.
        size: The size of their files in bytes.
    """

    jobs: int
    checkpoints: int
    size: int


_JOBS = func.count(Checkpoint.job_id.distinct())
_CHECKPOINTS = func.count(Checkpoint.id)
_SIZE = func.coalesce(func.sum(Checkpoint.size), 0)


async def total(session: AsyncSession) -> Taken:
    """Return what all checkpoints take."""
    jobs, checkpoints, size = (await session.execute(select(_JOBS, _CHECKPOINTS, _SIZE))).one()
    return Taken(jobs, checkpoints, int(size))


async def by_experiment(session: AsyncSession, limit: int) -> Sequence[tuple[Experiment | None, Taken]]:
    """Return what the checkpoints of each experiment take, largest first; None: of the jobs without an experiment."""
    query = select(Job.experiment_id, _JOBS, _CHECKPOINTS, _SIZE).join(Checkpoint, Checkpoint.job_id == Job.id)
    query = query.group_by(Job.experiment_id).order_by(_SIZE.desc(), Job.experiment_id.desc()).limit(limit)
    found = (await session.execute(query)).all()
    ids = [row[0] for row in found]
    rows = await session.scalars(select(Experiment).where(Experiment.id.in_(filter(None, ids))))
    experiments: dict[str | None, Experiment] = {row.id: row for row in rows}
    return [(experiments.get(id_), Taken(jobs, number, int(size))) for id_, jobs, number, size in found]


async def by_job(session: AsyncSession, limit: int, experiment_id: str | None = None) -> Sequence[tuple[Job, Taken]]:
    """Return what the checkpoints of each job take, largest first.

    Args:
        session: A transaction.
        limit: The number of jobs.
        experiment_id: Only the jobs of this experiment.
    """
    query = select(Checkpoint.job_id, _CHECKPOINTS, _SIZE)
    if experiment_id is not None:
        query = query.join(Job, Job.id == Checkpoint.job_id).where(Job.experiment_id == experiment_id)
    query = query.group_by(Checkpoint.job_id).order_by(_SIZE.desc(), Checkpoint.job_id.desc()).limit(limit)
    found = (await session.execute(query)).all()
    rows = await session.scalars(select(Job).where(Job.id.in_([row[0] for row in found])))
    jobs = {row.id: row for row in rows}
    return [(jobs[id_], Taken(1, number, int(size))) for id_, number, size in found]
