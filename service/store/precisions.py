"""The precision of jobs whose spec leaves it open (`auto`): equal for all jobs of an experiment, and never changed."""

from collections.abc import Mapping

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.store.tables import Attempt, Experiment, Job


async def settle(session: AsyncSession, job: Job, precision: str | None) -> None:
    """Give a job that has no precision yet that of its experiment; if that has none either, give both `precision`.

    Args:
        session: A write transaction that has locked the events.
        job: The job.
        precision: What `auto` means on the workers now; None if it is not known yet.
    """
    if job.precision is not None:
        return
    if job.experiment_id is not None:
        experiment = await session.get(Experiment, job.experiment_id, with_for_update=True)
        if experiment is not None:
            experiment.precision = experiment.precision or precision
            precision = experiment.precision
    job.precision = precision


async def workloads(session: AsyncSession, job: Job) -> Mapping[tuple[str, int], int]:
    """Return the number of jobs, by model and batch size, that get one precision with this job: those without one."""
    if job.experiment_id is None:
        return {(job.model, job.batch_size): 1}
    query = (
        select(Job.model, Job.batch_size, func.count())
        .where(Job.experiment_id == job.experiment_id, Job.precision.is_(None))
        .group_by(Job.model, Job.batch_size)
        .order_by(Job.model, Job.batch_size)
    )
    return {(model, batch_size): count for model, batch_size, count in await session.execute(query)}


async def settle_by_attempts(session: AsyncSession, experiment_id: str) -> None:
    """Give the jobs of an imported experiment, and itself, the precision in which their attempts ran."""
    ran = (
        select(Attempt.precision)
        .where(Attempt.job_id == Job.id, Attempt.precision.is_not(None))
        .order_by(Attempt.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    of_it = Job.experiment_id == experiment_id
    await session.execute(update(Job).where(of_it, Job.precision.is_(None)).values(precision=ran))
    left_open = Job.spec["precision"].as_string() == "auto"
    common = select(func.max(Job.precision)).where(of_it, left_open).scalar_subquery()
    query = update(Experiment).where(Experiment.id == experiment_id, Experiment.precision.is_(None))
    await session.execute(query.values(precision=common))
