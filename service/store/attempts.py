"""Attempts: claim a job, record what its workers report, end it. Only the dispatcher writes them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import CompoundSelect, Select, bindparam, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import ACTIVE, Status
from service.store import checkpoints, counters, events, metrics, precisions
from service.store.columns import UTCDateTime
from service.store.database import lock_events
from service.store.identifiers import new_id
from service.store.jobs import change_status, get
from service.store.notifications import Channel, notify
from service.store.tables import Attempt, Job
from worker import events as reports
from worker.events import Failure, Finished, Precision, Started

RETRY_DELAY_S = 2.0
"""Delay of the first retry after an error that may be temporary; it doubles with every further retry."""
LONGEST_RETRY_DELAY_S = 600.0
"""Upper limit of the delay. A retry that is due later was delayed by a clock that has been set back since."""
MOST_WORKERS = 2**31 - 1
"""More workers than any job can ask for."""
EVALUATION = ("evaluations", "eval_images_per_s")
"""Parts of the progress that evaluations report: the number of completed ones, and the speed of the latest."""
FAIR_SHARE_WINDOW = 16
"""Number of recent claims that are counted to share workers evenly between experiments."""


class Fenced(Exception):
    """A write for an attempt that is not the current attempt of its job."""


@dataclass(frozen=True)
class FreeWorker:
    """A worker without an attempt, and its node."""

    worker: str
    node: str


@dataclass(frozen=True)
class NotEnoughWorkers:
    """The next job of the queue needs more workers than are free."""

    job_id: str
    num_workers: int


def _next() -> Select[Job]:
    """Return the query for the next job of the queue."""
    group = func.coalesce(Job.experiment_id, "")
    jobs_by_group = select(group.label("experiment"), func.count().label("jobs")).group_by(group)
    workers_by_group = select(group.label("experiment"), func.sum(Job.num_workers).label("workers")).group_by(group)
    held = workers_by_group.where(Job.status.in_(ACTIVE)).subquery()
    last = select(Attempt.job_id).order_by(Attempt.id.desc()).limit(FAIR_SHARE_WINDOW).subquery()
    served = jobs_by_group.join(last, last.c.job_id == Job.id).subquery()
    waiting = (
        select(Job.id)
        .outerjoin(held, held.c.experiment == group)
        .outerjoin(served, served.c.experiment == group)
        .where(_WAITS, _MAY_RUN, Job.num_workers <= bindparam("slots"))
        .order_by(
            # An expression instead of the column: for the column, SQLite scans its index over all jobs to avoid the
            # sort of the few that wait.
            (Job.priority + 0).desc(),
            case((Job.id == bindparam("next_up"), 0), else_=1),
            func.coalesce(held.c.workers, 0),
            func.coalesce(served.c.jobs, 0),
            Job.id,
        )
        .limit(1)
        .scalar_subquery()
    )
    return select(Job).where(Job.id == waiting).with_for_update().execution_options(populate_existing=True)


def _pending() -> CompoundSelect[str, Status, int, str | None]:
    """Return the query of `pending`."""
    columns = (Job.id, Job.status, Job.num_workers, Job.submitted_by)
    asked = select(*columns).where(Job.status.in_((Status.PAUSING, Status.CANCELLING)))
    waits = _WAITS & _MAY_RUN & (Job.num_workers <= bindparam("largest"))
    waiting = select(*columns).where(waits).limit(bindparam("limit")).subquery()
    return asked.union_all(select(waiting.c.id, waiting.c.status, waiting.c.num_workers, waiting.c.submitted_by))


_NOW = bindparam("now", type_=UTCDateTime)
_LATEST = bindparam("latest", type_=UTCDateTime)
_DUE = Job.not_before.is_(None) | (Job.not_before <= _NOW) | (Job.not_before > _LATEST)
_WAITS = (Job.status == Status.QUEUED) & _DUE
_MAY_RUN = Job.submitted_by.is_(None) | Job.submitted_by.not_in(bindparam("full", expanding=True))
# Built once: building them takes longer than running them.
_NEXT, _PENDING = _next(), _pending()
_LAST_ATTEMPT = select(func.max(Attempt.id))


def _times() -> dict[str, Any]:
    """The values of the parameters that decide which retries are due."""
    now = datetime.now(UTC)
    return {"now": now, "latest": now + timedelta(seconds=LONGEST_RETRY_DELAY_S)}


async def claim(
    session: AsyncSession,
    free: Sequence[FreeWorker],
    *,
    slots: int | None = None,
    next_up: str | None = None,
    auto: Precision | None = None,
    full: Collection[str] = (),
) -> tuple[Job, Attempt] | NotEnoughWorkers | None:
    """Start an attempt of the next queued job on as many of the `free` workers as it needs.

    Jobs with the highest priority go first. Experiments of equal priority share the workers; jobs without an experiment
    count as one. The experiment that holds the fewest workers goes first, then the one with the fewest recent claims:
    so a small experiment does not wait for the end of a large one, even on a single worker. Within an experiment the
    job that has waited longest goes first.

    While the next job needs more workers than are free, no other job starts: a stream of small jobs would delay it
    forever.

    Args:
        session: A write transaction.
        free: The workers that can take an attempt, in the order of preference.
        slots: The number of workers that the cluster has room for. A job that needs more is passed over, because it
            would block all others. None: no limit.
        next_up: The job that was last returned in `NotEnoughWorkers`; it stays the first of its priority.
        auto: What the precision `auto` means on the workers now; None if it is not known yet.
        full: Names of tokens of which as many jobs run as may. Their jobs are passed over.

    Returns:
        The job and its new attempt; `NotEnoughWorkers` if the next job has to wait; None if the queue is empty.
    """
    times = _times()
    values = times | {"slots": MOST_WORKERS if slots is None else slots, "next_up": next_up or "", "full": [*full]}
    await lock_events(session)
    job = await session.scalar(_NEXT, values)
    if job is None:
        return None
    if job.num_workers > len(free):
        return NotEnoughWorkers(job.id, job.num_workers)
    attempt = Attempt(
        id=new_id("attempt", after=await session.scalar(_LAST_ATTEMPT)),
        job_id=job.id,
        number=job.attempts + 1,
        workers=[asdict(worker) for worker in free[: job.num_workers]],
        last_seq=0,
        resumed_from_step=0,
        started_at=times["now"],
    )
    session.add(attempt)
    await precisions.settle(session, job, auto)
    job.attempts += 1
    job.attempt_id = attempt.id
    job.started_at = job.started_at or times["now"]
    job.not_before = None
    await change_status(session, job, Status.STARTING)
    return job, attempt


@dataclass(frozen=True)
class Pending:
    """A job that needs the dispatcher: a queued one, or one to pause or cancel."""

    job_id: str
    status: Status
    num_workers: int
    submitted_by: str | None = None


async def pending(session: AsyncSession, limit: int, largest: int, full: Collection[str] = ()) -> Sequence[Pending]:
    """All jobs that are to pause or to be cancelled, and up to `limit` queued jobs of at most `largest` workers.

    Queued jobs of the names in `full` are passed over, as `claim` does.

    It is a single statement, because the dispatcher runs it for every notification.
    """
    values = _times() | {"limit": limit, "largest": largest, "full": [*full]}
    return [Pending(*row) for row in await session.execute(_PENDING, values)]


async def resolve_precision(session: AsyncSession, attempt_id: str, precision: Precision) -> Precision:
    """Store what the precision `auto` of the job of an attempt is resolved to, unless it was resolved before.

    Returns:
        The precision of the job.

    Raises:
        Fenced: If the attempt is not the current one of its job.
    """
    job, _ = await _current(session, attempt_id)
    await precisions.settle(session, job, precision)
    resolved: Precision = job.precision  # type: ignore[assignment]
    return resolved


async def active(session: AsyncSession) -> Sequence[tuple[Job, Attempt]]:
    """The jobs on workers, each with its current attempt."""
    query = select(Job, Attempt).join(Attempt, Attempt.id == Job.attempt_id).where(Job.status.in_(ACTIVE))
    return [(job, attempt) for job, attempt in await session.execute(query)]


async def record(
    session: AsyncSession, attempt_id: str, reported: Sequence[reports.Event], stored: Mapping[int, str]
) -> Job:
    """Write the reported events. Events that were recorded before are skipped.

    Args:
        session: A write transaction.
        attempt_id: The attempt that reported them.
        reported: The events, in the order of their sequence numbers.
        stored: For the sequence number of each `CheckpointTaken` event, the id of its checkpoint in the artifact store.

    Returns:
        The job of the attempt.

    Raises:
        Fenced: If the attempt is not the current one of its job.
    """
    job, attempt = await _current(session, attempt_id)
    for event in reported:
        if event.seq <= attempt.last_seq:
            continue
        attempt.last_seq = event.seq
        await _record_one(session, job, attempt, event, stored)
    return job


async def _record_one(
    session: AsyncSession, job: Job, attempt: Attempt, event: reports.Event, stored: Mapping[int, str]
) -> None:
    data = event.model_dump(mode="json", exclude={"type", "seq", "time", "usage"})
    if isinstance(event, reports.Progress | Finished) and event.usage is not None:
        attempt.cpu_s = event.usage.cpu_s
        attempt.peak_memory_bytes = event.usage.peak_memory_bytes
        attempt.peak_gpu_memory_bytes = event.usage.peak_gpu_memory_bytes
        attempt.gpu_utilization = event.usage.gpu_utilization
    match event:
        case reports.Progress():
            kept = {name: value for name, value in (job.progress or {}).items() if name in EVALUATION}
            job.progress = kept | data | {"time": event.time.isoformat()}
            await notify(session, Channel.EVENTS)
            return
        case Finished():
            await _finish(session, job, attempt, event)
            return
        case Started():
            attempt.device = event.device
            attempt.precision = event.precision
            attempt.versions = event.versions
            attempt.resumed_from_step = event.resumed_from_step
            await metrics.supersede(session, job, event.resumed_from_step)
            if job.status is Status.STARTING:
                waited = datetime.now(UTC) - await events.last_queued_at(session, job.id)
                await counters.observe_latency(session, max(0.0, waited.total_seconds()))
                await change_status(session, job, Status.RUNNING)
        case reports.Metrics():
            values = await metrics.add(session, job, attempt.id, event)
            data = {"kind": event.kind, "epoch": event.epoch, "step": event.step, **values}
            job.progress = (job.progress or {}) | {"epoch": event.epoch, "step": event.step}
            if event.kind == "eval":
                evaluation = event.epoch, event.eval_images_per_s
                job.progress |= dict(zip(EVALUATION, evaluation, strict=True))
        case reports.CheckpointTaken():
            row = await checkpoints.add(session, stored[event.seq], job.id, attempt.id, event, event.time)
            data = {"id": row.id, **data}
            job.losses = 0
        case reports.Log():
            pass
    await events.add(session, job.id, event.type, data, event.time, attempt_id=attempt.id, seq=event.seq)


async def _finish(session: AsyncSession, job: Job, attempt: Attempt, event: Finished) -> None:
    failure = event.failure
    await _end(session, attempt, event.outcome, failure.message if failure else None)
    if event.outcome == "succeeded":
        await change_status(session, job, Status.SUCCEEDED)
    elif job.status is Status.CANCELLING:
        await change_status(session, job, Status.CANCELLED)
    elif event.outcome == "paused" and job.status is Status.PAUSING:
        await change_status(session, job, Status.PAUSED)
    elif failure is not None:
        await _fail(session, job, failure)
    else:
        # No stop is requested now: an earlier dispatcher requested it, or the lease of the worker expired.
        await _lose(session, job, "the worker stopped the attempt", max_lost=None)


async def fail(session: AsyncSession, attempt_id: str, failure: Failure) -> Job:
    """End an attempt with a failure that its workers did not report.

    Raises:
        Fenced: If the attempt is not the current one of its job.
    """
    job, attempt = await _current(session, attempt_id)
    await _end(session, attempt, "failed", failure.message)
    if job.status is Status.CANCELLING:
        await change_status(session, job, Status.CANCELLED)
    else:
        await _fail(session, job, failure)
    return job


async def lose(session: AsyncSession, attempt_id: str, reason: str, max_lost: int) -> Job:
    """End an attempt whose worker is gone, and queue its job again from the last checkpoint.

    A job that loses its worker `max_lost` times without a new checkpoint fails, because it may be the cause.

    Raises:
        Fenced: If the attempt is not the current one of its job.
    """
    job, attempt = await _current(session, attempt_id)
    await _end(session, attempt, "lost", reason)
    if job.status is Status.CANCELLING:
        await change_status(session, job, Status.CANCELLED, reason)
    else:
        await _lose(session, job, reason, max_lost)
    return job


async def _fail(session: AsyncSession, job: Job, failure: Failure) -> None:
    if failure.may_pass and job.failures < job.max_retries:
        delay_s = min(RETRY_DELAY_S * 2**job.failures, LONGEST_RETRY_DELAY_S)
        job.failures += 1
        if job.status is Status.PAUSING:
            await change_status(session, job, Status.PAUSED, failure.message)
            return
        job.not_before = datetime.now(UTC) + timedelta(seconds=delay_s)
        retry = f"retry {job.failures} of {job.max_retries} in {delay_s:g} s"
        await change_status(session, job, Status.QUEUED, f"{failure.message} ({retry})")
        return
    job.error = failure.model_dump(mode="json", exclude={"traceback", "may_pass"})
    await change_status(session, job, Status.FAILED, failure.message)


async def _lose(session: AsyncSession, job: Job, reason: str, max_lost: int | None) -> None:
    pausing = job.status is Status.PAUSING
    await change_status(session, job, Status.LOST, reason)
    job.losses += 1
    if max_lost is not None and job.losses >= max_lost:
        message = f"lost its worker {job.losses} times without reaching a new checkpoint; the last time: {reason}"
        job.error = {"code": "lost", "message": message, "step": None}
        await change_status(session, job, Status.FAILED, message)
    else:
        await change_status(session, job, Status.PAUSED if pausing else Status.QUEUED)


async def _current(session: AsyncSession, attempt_id: str) -> tuple[Job, Attempt]:
    attempt = await session.get(Attempt, attempt_id)
    if attempt is None:
        raise Fenced(f"there is no attempt {attempt_id}")
    job = await get(session, attempt.job_id, lock=True)
    await session.refresh(attempt)
    if job.attempt_id != attempt_id or job.status not in ACTIVE:
        raise Fenced(f"attempt {attempt_id} is not the current one of job {job.id}, which is {job.status}")
    return job, attempt


async def _end(session: AsyncSession, attempt: Attempt, outcome: str, reason: str | None) -> None:
    await counters.increase(session, counters.ATTEMPTS_ENDED, {outcome: 1})
    attempt.outcome = outcome
    attempt.reason = reason
    attempt.ended_at = datetime.now(UTC)
