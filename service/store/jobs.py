"""Queries of jobs, and every change of their state."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import delete as delete_from
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict, NotFound
from service.jobs import ACTIONS, ACTIVE, TERMINAL, TRANSITIONS, Action, JobRequest, Status
from service.store import checkpoints, events, imports, metrics
from service.store.database import lock_events
from service.store.identifiers import new_id
from service.store.submitters import NOBODY, Submitter, require_room
from service.store.tables import Attempt, Idempotency, Job, JobLabel


async def create(
    session: AsyncSession,
    request: JobRequest,
    *,
    by: Submitter = NOBODY,
    experiment_id: str | None = None,
    cell: str | None = None,
    retry_of: str | None = None,
    precision: str | None = None,
    extends: str | None = None,
    from_checkpoint: str | None = None,
) -> Job:
    """Store a new job and queue it.

    `precision` is what the precision `auto` is resolved to, if it is.

    Raises:
        InvalidFields: It cannot begin with the checkpoint in `init_from`.
        QuotaExceeded: Too many jobs `by` this name wait.
    """
    await require_room(session, by, 1)
    if from_checkpoint is None:
        await checkpoints.check_initial(session, [(request.init_from, request.model)])
        from_checkpoint = request.init_from
    now = datetime.now(UTC)
    row = _row(request, now, await session.scalar(_LAST), by)
    row["precision"] = row["precision"] or precision
    job = Job(
        **row,
        experiment_id=experiment_id,
        retry_of=retry_of,
        cell=cell,
        extends=extends,
        from_checkpoint=from_checkpoint,
    )
    session.add(job)
    await session.flush()
    session.add_all(JobLabel(job_id=job.id, key=key, value=value) for key, value in request.labels.items())
    await events.add(session, job.id, "status", {"status": Status.QUEUED, "reason": None}, now)
    return job


async def create_all(
    session: AsyncSession,
    cells: Sequence[tuple[str, JobRequest]],
    experiment_id: str,
    status: Literal[Status.QUEUED, Status.PAUSED] = Status.QUEUED,
    *,
    by: Submitter = NOBODY,
) -> Sequence[str]:
    """Queue the jobs of an experiment, each with its cell, in the given order. Returns their ids.

    A constraint of the database permits one job per cell and seed. Raises as `create` does.
    """
    if not cells:
        return []
    await require_room(session, by, len(cells))
    await checkpoints.check_initial(session, [(request.init_from, request.model) for _, request in cells])
    began, last = datetime.now(UTC), await session.scalar(_LAST)
    rows: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    for number, (cell, request) in enumerate(cells):
        # A microsecond apart, so that they are listed in the order given.
        row = _row(request, began + timedelta(microseconds=number), last, by)
        own = {"experiment_id": experiment_id, "cell": cell, "from_checkpoint": request.init_from}
        rows.append(row | own | {"status": status})
        labels += [{"job_id": row["id"], "key": key, "value": value} for key, value in request.labels.items()]
    await session.execute(insert(Job), rows)
    if labels:
        await session.execute(insert(JobLabel), labels)
    data = {"status": status, "reason": None}
    event = {"attempt_id": None, "type": "status", "data": data}
    await events.add_all(session, [{**event, "job_id": row["id"], "time": row["created_at"]} for row in rows])
    return [row["id"] for row in rows]


_LAST = select(func.max(Job.id))


def _row(request: JobRequest, now: datetime, last: str | None, by: Submitter) -> dict[str, Any]:
    """The columns of a new job, whose id follows `last`: jobs are claimed in the order of their ids."""
    training = request.training
    return {
        "id": new_id("job", after=last),
        "name": request.name,
        "submitted_by": by.name,
        "spec": training.model_dump(mode="json"),
        "priority": request.priority,
        "max_retries": request.max_retries,
        "model": training.model,
        "normalization": training.normalization.type,
        "batch_size": training.batch_size,
        "num_workers": training.num_workers,
        "seed": training.seed,
        "precision": None if training.precision == "auto" else training.precision,
        "status": Status.QUEUED,
        "attempts": 0,
        "failures": 0,
        "losses": 0,
        "summary": {},
        "created_at": now,
        "updated_at": now,
        "queued_at": now,
    }


async def get(session: AsyncSession, job_id: str, *, lock: bool = False) -> Job:
    """Return one job; `lock` locks it until the transaction ends. Raises `NotFound`."""
    if lock:
        # Every change of a job adds an event. Both locks are always taken in this order, which prevents deadlocks.
        await lock_events(session)
    job = await session.get(Job, job_id, with_for_update=lock or None, populate_existing=lock)
    if job is None or (job.status in TERMINAL and await imports.is_hidden(session, job)):
        raise NotFound("job", job_id)
    return job


async def find(session: AsyncSession, job_id: str) -> Job | None:
    """Return one job, None if it does not exist."""
    return await session.get(Job, job_id)


async def probe(session: AsyncSession) -> None:
    """Read from the jobs table. Raises `DatabaseError` if the database does not answer or has no schema."""
    await session.execute(select(Job.id).limit(1))


async def change_status(session: AsyncSession, job: Job, to: Status, reason: str | None = None) -> None:
    """Change the state of a job and add the event, in the transaction of the caller.

    `job` must have been read with `lock`. Raises `AssertionError` for a move that `TRANSITIONS` does not have: callers
    decide by the state they read.
    """
    assert to in TRANSITIONS[job.status], f"{job.id} cannot go from {job.status} to {to}"
    now = datetime.now(UTC)
    job.status = to
    job.updated_at = now
    if to in TERMINAL:
        job.finished_at = now
    await events.add(session, job.id, "status", {"status": to, "reason": reason}, now, attempt_id=job.attempt_id)


async def change_all(session: AsyncSession, found: Sequence[Job], to: Status, reason: str) -> None:
    """Change the state of many jobs, as `change_status` does. `lock_events` must have been called."""
    now = datetime.now(UTC)
    for job in found:
        assert to in TRANSITIONS[job.status], f"{job.id} cannot go from {job.status} to {to}"
        job.status = to
        job.updated_at = now
        if to in TERMINAL:
            job.finished_at = now
    event = {"type": "status", "time": now, "data": {"status": to, "reason": reason}}
    await events.add_all(session, [{**event, "job_id": job.id, "attempt_id": job.attempt_id} for job in found])


async def cancel(session: AsyncSession, job_id: str) -> Job:
    """Request that a job be stopped for good. Raises `NotFound`, or `Conflict` if it has ended otherwise."""
    job = await get(session, job_id, lock=True)
    if job.status in (Status.CANCELLED, Status.CANCELLING):
        return job
    if Action.CANCEL not in ACTIONS[job.status]:
        raise Conflict(f"Job {job_id} {state_of(job)} and cannot be cancelled.")
    await change_status(session, job, Status.CANCELLING if job.status in ACTIVE else Status.CANCELLED, "requested")
    return job


async def pause(session: AsyncSession, job_id: str) -> Job:
    """Request that a job stop at a checkpoint. Raises `NotFound`, or `Conflict` if it is ending or has ended."""
    job = await get(session, job_id, lock=True)
    if job.status in (Status.PAUSED, Status.PAUSING):
        return job
    if Action.PAUSE not in ACTIONS[job.status]:
        raise Conflict(f"Job {job_id} {state_of(job)} and cannot be paused: only a queued or running job can.")
    await change_status(session, job, Status.PAUSED if job.status is Status.QUEUED else Status.PAUSING, "requested")
    return job


async def resume(session: AsyncSession, job_id: str) -> Job:
    """Queue a paused job again. Raises `NotFound`, or `Conflict` unless it is paused, queued or running."""
    job = await get(session, job_id, lock=True)
    if job.status in (Status.QUEUED, Status.STARTING, Status.RUNNING):
        return job
    if Action.RESUME not in ACTIONS[job.status]:
        raise Conflict(f"Job {job_id} {state_of(job)} and cannot be resumed: only a paused job can.")
    job.not_before = None
    await change_status(session, job, Status.QUEUED, "resumed")
    return job


async def retry(session: AsyncSession, job_id: str, by: Submitter = NOBODY) -> Job:
    """Return the job that retries one that failed or was cancelled; the first call creates it.

    Terminal states are final, so a job is not reopened. Raises `NotFound`, or `Conflict` if it has not failed.
    """
    job = await get(session, job_id, lock=True)
    if Action.RETRY not in ACTIONS[job.status]:
        raise Conflict(f"Job {job_id} {state_of(job)} and cannot be retried: only a failed or cancelled job can.")
    existing = await session.scalar(select(Job).where(Job.retry_of == job_id))
    if existing is not None:
        return existing
    if job.from_checkpoint is not None and await checkpoints.find(session, job.from_checkpoint) is None:
        raise Conflict(f"Job {job_id} cannot be retried: the checkpoint {job.from_checkpoint} no longer exists.")
    new = await create(
        session,
        await request_of(session, job),
        by=by,
        experiment_id=job.experiment_id,
        cell=job.cell,
        retry_of=job_id,
        precision=job.precision,
        extends=job.extends,
        from_checkpoint=job.from_checkpoint,
    )
    if job.extends is not None:
        await metrics.copy(session, await get(session, job.extends), new)
    return new


async def request_of(session: AsyncSession, job: Job) -> JobRequest:
    """Return the request for a job like this one."""
    own = {
        "name": job.name,
        "labels": (await labels(session, [job.id])).get(job.id, {}),
        "priority": job.priority,
        "max_retries": job.max_retries,
    }
    return JobRequest.model_validate(job.spec | own)


async def delete(session: AsyncSession, job_id: str) -> None:
    """Delete a job that has ended, and all its rows. Raises `NotFound`, or `Conflict` if it has not ended."""
    job = await get(session, job_id, lock=True)
    if Action.DELETE not in ACTIONS[job.status]:
        raise Conflict(f"Job {job_id} {state_of(job)}: cancel it before it is deleted.")
    await checkpoints.require_unneeded(session, Job.id == job_id)
    retried = job.retry_of
    await session.execute(delete_from(Idempotency).where(Idempotency.answer == job_id))
    await checkpoints.remove_of_jobs(session, select(Job.id).where(Job.id == job_id))
    await session.execute(delete_from(Job).where(Job.id == job_id))
    # A retry replaces it, because each cell and seed has exactly one job that is not a retry.
    await session.execute(update(Job).where(Job.retry_of == job_id).values(retry_of=retried))


async def of_ids(session: AsyncSession, job_ids: Sequence[str]) -> Sequence[Job]:
    """Return the jobs with these ids, in no particular order; ids of no job are skipped."""
    return (await session.scalars(select(Job).where(Job.id.in_(job_ids), imports.VISIBLE))).all()


async def active(session: AsyncSession) -> Sequence[Job]:
    """Return the jobs that hold a worker."""
    return (await session.scalars(select(Job).where(Job.status.in_(ACTIVE)))).all()


async def running_images_per_s(session: AsyncSession) -> float:
    """Return how many images per second all running jobs train on together."""
    running = await session.scalars(select(Job.progress).where(Job.status == Status.RUNNING))
    return sum(((progress or {}).get("images_per_s") or 0.0 for progress in running), 0.0)


async def labels(session: AsyncSession, job_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the labels of several jobs by job."""
    found: dict[str, dict[str, str]] = {}
    for label in await session.scalars(select(JobLabel).where(JobLabel.job_id.in_(job_ids)).order_by(JobLabel.key)):
        found.setdefault(label.job_id, {})[label.key] = label.value
    return found


async def attempts(session: AsyncSession, job_id: str) -> Sequence[Attempt]:
    """Return the attempts of a job, oldest first."""
    return (await session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number))).all()


async def durations_s(session: AsyncSession, job_ids: Sequence[str]) -> dict[str, float]:
    """Return the seconds that the attempts of several jobs have run, by job. Jobs without an attempt are omitted."""
    now = datetime.now(UTC)
    found: dict[str, float] = {}
    query = select(Attempt.job_id, Attempt.started_at, Attempt.ended_at).where(Attempt.job_id.in_(job_ids))
    for job_id, started_at, ended_at in await session.execute(query):
        found[job_id] = found.get(job_id, 0.0) + max(0.0, ((ended_at or now) - started_at).total_seconds())
    return found


async def count_by_status(session: AsyncSession) -> dict[Status, int]:
    """Return the number of jobs in each state."""
    counted = dict.fromkeys(Status, 0)
    query = select(Job.status, func.count()).where(imports.VISIBLE).group_by(Job.status)
    for status, count in await session.execute(query):
        counted[status] = count
    return counted


async def oldest_queued_at(session: AsyncSession) -> datetime | None:
    """Return when the oldest queued job was queued, None if no job is queued."""
    query = select(Job.queued_at).where(Job.status == Status.QUEUED).order_by(Job.queued_at).limit(1)
    found: datetime | None = await session.scalar(query)
    return found


async def count_queued_beyond(session: AsyncSession, num_workers: int) -> int:
    """Return how many queued jobs need more than `num_workers` workers."""
    larger = select(func.count()).where(Job.status == Status.QUEUED, Job.num_workers > num_workers)
    return int(await session.scalar(larger) or 0)


async def with_artifacts(session: AsyncSession, job_ids: Sequence[str]) -> set[str]:
    """Return those of `job_ids` that still exist. Artifacts of the others may be removed."""
    return set((await session.scalars(select(Job.id).where(Job.id.in_(job_ids)))).all())


async def answered(session: AsyncSession, client: str, key: str) -> Idempotency | None:
    """Return the answer that is stored for an idempotency key of a client, None if the key is new."""
    return await session.get(Idempotency, (client, key))


async def remember_answer(session: AsyncSession, client: str, key: str, fingerprint: str, answer: str) -> None:
    """Store the id of the resource that an idempotency key created. A second answer violates the primary key."""
    session.add(
        Idempotency(client=client, key=key, fingerprint=fingerprint, answer=answer, created_at=datetime.now(UTC))
    )
    await session.flush()


def _ended(job: Job) -> str:
    return {Status.SUCCEEDED: "succeeded", Status.FAILED: "failed"}.get(job.status, f"been {job.status}")


def state_of(job: Job) -> str:
    """Return the state of a job as a predicate, such as "has failed" or "is queued"."""
    return f"has {_ended(job)}" if job.status in TERMINAL else f"is {job.status}"
