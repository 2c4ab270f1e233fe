"""Evaluations of checkpoints: the API requests them, the dispatcher lets idle workers compute them."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import FieldError, InvalidFields, NotFound
from service.jobs import Status
from service.store import checkpoints, jobs
from service.store.database import lock_events
from service.store.identifiers import new_id
from service.store.notifications import Channel, notify
from service.store.tables import Checkpoint, Evaluation, Job
from worker.evaluation_spec import EvaluationSpec
from worker.events import Evaluated
from worker.spec import TrainingSpec

MOST_LOSSES = 3
"""An evaluation fails once it has lost this many workers: it may be the cause."""


async def request(session: AsyncSession, checkpoint_id: str, asked: EvaluationSpec) -> Evaluation:
    """Return the evaluation of a checkpoint with these choices; it is queued unless there is one that has not failed.

    Raises:
        NotFound: If there is no such checkpoint.
        InvalidFields: If the split is the holdout, and the job has none; if the statistics are those of running
            averages, and its normalization has none.
    """
    await lock_events(session)
    checkpoint = await checkpoints.get(session, checkpoint_id)
    job = await jobs.get(session, checkpoint.job_id)
    holdout = job.spec["dataset"].get("holdout")
    if asked.split == "holdout" and not holdout:
        detail = f"split is holdout, but job {job.id} holds out no images: give test or train"
        raise InvalidFields([FieldError(("split",), detail)])
    training = TrainingSpec.model_validate(job.spec)
    if asked.precise_statistics and training.normalization.kept_per_step(training.batch_size) is None:
        detail = (
            f"precise_statistics is {asked.precise_statistics}, but {training.normalization.type} normalization has no "
            "running averages: leave it out"
        )
        raise InvalidFields([FieldError(("precise_statistics",), detail)])
    wanted = asked.model_dump(mode="json")
    wanted["split"] = asked.split or ("holdout" if holdout else "test")
    wanted["precision"] = asked.precision or job.precision
    for known in await of_job(session, job.id):
        if known.checkpoint_id == checkpoint_id and known.request == wanted and known.status is not Status.FAILED:
            return known
    evaluation = Evaluation(
        id=new_id("evaluation"),
        job_id=job.id,
        checkpoint_id=checkpoint_id,
        epoch=checkpoint.epoch,
        step=checkpoint.step,
        request=wanted,
        status=Status.QUEUED,
        losses=0,
        created_at=datetime.now(UTC),
    )
    session.add(evaluation)
    await session.flush()
    await notify(session, Channel.QUEUE)
    return evaluation


async def get(session: AsyncSession, evaluation_id: str) -> Evaluation:
    """One evaluation. Raises `NotFound`."""
    evaluation = await session.get(Evaluation, evaluation_id)
    if evaluation is None:
        raise NotFound("evaluation", evaluation_id)
    return evaluation


async def of_job(session: AsyncSession, job_id: str) -> Sequence[Evaluation]:
    """The evaluations of the checkpoints of a job, newest first."""
    query = select(Evaluation).where(Evaluation.job_id == job_id).order_by(Evaluation.id.desc())
    return (await session.scalars(query)).all()


async def count_queued(session: AsyncSession) -> int:
    """The number of evaluations that wait for a worker."""
    return int(await session.scalar(select(func.count()).where(Evaluation.status == Status.QUEUED)) or 0)


async def claim(session: AsyncSession) -> tuple[Evaluation, Job, Checkpoint | None] | None:
    """Begin the evaluation that has waited longest. Returns it, its job and its checkpoint; None if none waits."""
    waiting = select(Evaluation).where(Evaluation.status == Status.QUEUED).order_by(Evaluation.id).limit(1)
    evaluation = await session.scalar(waiting.with_for_update())
    if evaluation is None:
        return None
    evaluation.status = Status.RUNNING
    job = await jobs.get(session, evaluation.job_id)
    return evaluation, job, await checkpoints.find(session, evaluation.checkpoint_id)


async def succeed(session: AsyncSession, evaluation_id: str, result: Evaluated) -> None:
    """Store the result of an evaluation, unless its job was deleted."""
    if (evaluation := await session.get(Evaluation, evaluation_id)) is not None:
        evaluation.result = result.model_dump(mode="json")
        _end(evaluation, Status.SUCCEEDED)


async def fail(session: AsyncSession, evaluation_id: str, error: str) -> None:
    """Store why an evaluation failed, unless its job was deleted."""
    if (evaluation := await session.get(Evaluation, evaluation_id)) is not None:
        evaluation.error = error
        _end(evaluation, Status.FAILED)


async def lose(session: AsyncSession, evaluation_id: str, reason: str) -> None:
    """Queue an evaluation again whose worker is gone. It fails once it has lost `MOST_LOSSES` workers."""
    if (evaluation := await session.get(Evaluation, evaluation_id)) is None:
        return
    evaluation.losses += 1
    evaluation.status = Status.QUEUED
    if evaluation.losses >= MOST_LOSSES:
        evaluation.error = f"it lost its worker {evaluation.losses} times; the last time: {reason}"
        _end(evaluation, Status.FAILED)


async def requeue(session: AsyncSession) -> None:
    """Queue the evaluations again that an earlier dispatcher had begun."""
    await session.execute(update(Evaluation).where(Evaluation.status == Status.RUNNING).values(status=Status.QUEUED))


def _end(evaluation: Evaluation, status: Status) -> None:
    evaluation.status = status
    evaluation.finished_at = datetime.now(UTC)
