"""Jobs that continue a succeeded job for more epochs."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict, FieldError, InvalidFields
from service.jobs import ACTIONS, Action, Status
from service.store import checkpoints, jobs, metrics
from service.store.submitters import NOBODY, Submitter
from service.store.tables import Job
from worker.spec import TrainingSpec


async def extend(session: AsyncSession, job_id: str, epochs: int, by: Submitter = NOBODY) -> Job:
    """Return the job that continues a succeeded one until `epochs` epochs are done; the first call creates it.

    It has the metrics of the first one, and belongs to no experiment.

    Raises:
        NotFound: If there is no such job.
        Gone: If retention has removed its checkpoints.
        Conflict: If it has not succeeded, if its schedule is fixed to its length, or if its last checkpoint is missing.
        InvalidFields: If `epochs` are not more than it has.
    """
    job = await jobs.get(session, job_id, lock=True)
    if Action.EXTEND not in ACTIONS[job.status]:
        raise Conflict(f"Job {job_id} {jobs.state_of(job)} and cannot be extended: only a job that has succeeded can.")
    training = TrainingSpec.model_validate(job.spec)
    if (reason := training.schedule.fixed_to_length) is not None:
        raise Conflict(
            f"Job {job_id} cannot be extended: its schedule is {training.schedule.type}, and {reason}. Submit a job "
            "with more epochs; jobs with the schedule constant can be extended."
        )
    if epochs <= training.epochs:
        detail = f"epochs is {epochs}, but job {job_id} has trained {training.epochs}: give more."
        raise InvalidFields([FieldError(("epochs",), detail)])
    for known in await session.scalars(select(Job).where(Job.extends == job_id).order_by(Job.id)):
        if known.spec["epochs"] == epochs and known.status not in (Status.FAILED, Status.CANCELLED):
            return known
    last = next(iter(await checkpoints.of_job(session, job_id)), None)
    if last is None:
        await checkpoints.require_not_removed(session, job_id)
    if last is None or last.epoch != training.epochs:
        raise Conflict(f"Job {job_id} cannot be extended: it has no checkpoint of its last epoch, as imported jobs.")
    request = (await jobs.request_of(session, job)).model_copy(update={"epochs": epochs})
    new = await jobs.create(session, request, by=by, precision=job.precision, extends=job_id, from_checkpoint=last.id)
    await metrics.copy(session, job, new)
    return new
