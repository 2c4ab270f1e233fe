"""The rows of checkpoints. Their files are in the artifact store."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy import delete as delete_from
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict, FieldError, Gone, InvalidFields, NotFound
from service.jobs import TERMINAL, Status
from service.store import counters
from service.store.columns import storable
from service.store.database import lock_events
from service.store.tables import Checkpoint, Evaluation, Job, RemovedCheckpoint
from worker.events import CheckpointTaken
from worker.metrics import selection_error


async def add(
    session: AsyncSession,
    checkpoint_id: str,
    job_id: str,
    attempt_id: str,
    event: CheckpointTaken,
    created_at: datetime,
) -> Checkpoint:
    """Insert the row of a checkpoint whose files are already stored."""
    size = sum(file.size for file in event.files.values())
    checkpoint = Checkpoint(
        id=checkpoint_id,
        job_id=job_id,
        attempt_id=attempt_id,
        epoch=event.epoch,
        step=event.step,
        metrics=storable(event.metrics),
        files={name: file.model_dump() for name, file in event.files.items()},
        size=size,
        created_at=created_at,
    )
    session.add(checkpoint)
    await counters.increase(session, counters.CHECKPOINT_BYTES, {counters.WRITTEN: size})
    await session.flush()
    return checkpoint


async def of_job(session: AsyncSession, job_id: str) -> Sequence[Checkpoint]:
    """The checkpoints of a job, newest first."""
    query = select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc(), Checkpoint.id.desc())
    return (await session.scalars(query)).all()


async def ids_of_jobs(session: AsyncSession, job_ids: Sequence[str]) -> set[str]:
    """The ids of the checkpoints of several jobs."""
    return set((await session.scalars(select(Checkpoint.id).where(Checkpoint.job_id.in_(job_ids)))).all())


async def get(session: AsyncSession, checkpoint_id: str) -> Checkpoint:
    """One checkpoint. Raises `NotFound`, or `Gone` if retention has removed it."""
    checkpoint = await session.get(Checkpoint, checkpoint_id)
    if checkpoint is None:
        if (removed := await session.get(RemovedCheckpoint, checkpoint_id)) is not None:
            raise _gone(removed)
        raise NotFound("checkpoint", checkpoint_id)
    return checkpoint


async def removed_of_job(session: AsyncSession, job_id: str) -> int:
    """The number of checkpoints of a job that retention has removed."""
    query = select(func.count()).where(RemovedCheckpoint.job_id == job_id)
    return await session.scalar(query) or 0


async def require_not_removed(session: AsyncSession, job_id: str, checkpoint_id: str | None = None) -> None:
    """Raise `Gone` if retention has removed this checkpoint of a job; without an id, if it has removed any of them."""
    query = select(RemovedCheckpoint).where(RemovedCheckpoint.job_id == job_id)
    if checkpoint_id is not None:
        query = query.where(RemovedCheckpoint.id == checkpoint_id)
    newest = query.order_by(RemovedCheckpoint.step.desc(), RemovedCheckpoint.id.desc()).limit(1)
    if (removed := await session.scalar(newest)) is not None:
        raise _gone(removed)


async def find(session: AsyncSession, checkpoint_id: str) -> Checkpoint | None:
    """One checkpoint, None if it does not exist."""
    return await session.get(Checkpoint, checkpoint_id)


async def pick(session: AsyncSession, job_id: str, which: Literal["latest", "best"]) -> Checkpoint:
    """The latest or the best checkpoint of a job. Raises `NotFound`."""
    checkpoints = await of_job(session, job_id)
    chosen = best(checkpoints) if which == "best" else next(iter(checkpoints), None)
    if chosen is None:
        raise NotFound("checkpoint", f"{which} of job {job_id}")
    return chosen


def best(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """The checkpoint with the lowest error on the holdout, without one on the test images; the earliest of equals.

    None if none was evaluated.
    """
    evaluated = [(error, c.step, c) for c in checkpoints if (error := selection_error(c.metrics)) is not None]
    return min(evaluated, key=lambda entry: entry[:2])[2] if evaluated else None


def superfluous(checkpoints: Sequence[Checkpoint], keep_last: int) -> list[Checkpoint]:
    """The checkpoints to remove: all but the best and the last `keep_last`. `checkpoints` has the newest first."""
    kept = best(checkpoints)
    return [checkpoint for checkpoint in checkpoints[keep_last:] if checkpoint is not kept]


async def check_initial(session: AsyncSession, wanted: Sequence[tuple[str | None, str]]) -> None:
    """Check that jobs can begin with the weights of checkpoints.

    Args:
        session: A write transaction.
        wanted: The checkpoint that each job begins with, if any, and its model.

    Raises:
        InvalidFields: If a checkpoint does not exist, or is of another model.
    """
    named = {(checkpoint_id, model) for checkpoint_id, model in wanted if checkpoint_id is not None}
    if named:
        # A checkpoint that is found is then not removed by a worker that reports a new one.
        await lock_events(session)
    for checkpoint_id, model in sorted(named):
        trained = await session.scalar(
            select(Job.model).join(Checkpoint, Checkpoint.job_id == Job.id).where(Checkpoint.id == checkpoint_id)
        )
        if trained is None:
            problem = "but there is no such checkpoint: give the id of one that is stored"
        elif trained != model:
            problem = f"a checkpoint of {trained}, but model is {model}: give one of {model}, or model {trained}"
        else:
            continue
        raise InvalidFields([FieldError(("init_from",), f"init_from is {checkpoint_id}, {problem}")])


async def needed(session: AsyncSession, job_id: str) -> set[str]:
    """The ids of the checkpoints of a job that jobs and evaluations need which have not ended."""
    query = select(Checkpoint.id).join(Job, Job.from_checkpoint == Checkpoint.id)
    needing = query.where(Checkpoint.job_id == job_id, Job.status.not_in(TERMINAL))
    evaluated = select(Evaluation.checkpoint_id).where(
        Evaluation.job_id == job_id, Evaluation.status.in_((Status.QUEUED, Status.RUNNING))
    )
    return set((await session.scalars(needing.union(evaluated))).all())


async def require_unneeded(session: AsyncSession, of: ColumnElement[bool]) -> None:
    """Raise `Conflict` if jobs that have not ended start from checkpoints of the jobs that match `of`.

    Jobs that match it, too, do not count.
    """
    ids = select(Checkpoint.id).where(Checkpoint.job_id.in_(select(Job.id).where(of)))
    outside = Job.id.not_in(select(Job.id).where(of))
    query = select(Job.id, Job.from_checkpoint).where(
        Job.from_checkpoint.in_(ids), Job.status.not_in(TERMINAL), outside
    )
    if (found := (await session.execute(query.limit(1))).first()) is not None:
        raise Conflict(f"Job {found[0]} has not ended and starts from the checkpoint {found[1]}: cancel it first.")


async def remove(session: AsyncSession, checkpoint_ids: Sequence[str]) -> None:
    """Delete rows. The caller deletes the files after the transaction."""
    await _remove(session, Checkpoint.id.in_(checkpoint_ids))


async def remove_of_jobs(session: AsyncSession, job_ids: Select[str]) -> None:
    """Delete the rows of all checkpoints of these jobs. The caller deletes the files after the transaction."""
    await _remove(session, Checkpoint.job_id.in_(job_ids))


async def stored_bytes(session: AsyncSession) -> int:
    """The total size of all checkpoints."""
    counted = await counters.read(session, counters.CHECKPOINT_BYTES)
    return int(counted.get(counters.WRITTEN, 0) - counted.get(counters.REMOVED, 0))


def _gone(removed: RemovedCheckpoint) -> Gone:
    kept = "none" if removed.rule == "none" else "only its best and its last one"
    return Gone(
        f"Checkpoint {removed.id} of job {removed.job_id}, at step {removed.step}, was removed on "
        f"{removed.removed_at:%Y-%m-%d}: of the checkpoints of a job that has ended, the service keeps {kept} "
        "(NORMLAB_RETENTION)."
    )


async def _remove(session: AsyncSession, which: ColumnElement[bool]) -> None:
    removed = await session.scalars(delete_from(Checkpoint).where(which).returning(Checkpoint.size))
    await counters.increase(session, counters.CHECKPOINT_BYTES, {counters.REMOVED: sum(removed)})
