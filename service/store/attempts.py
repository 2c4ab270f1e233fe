"""Attempts: claim a job, record what its worker reports, end it. Only the dispatcher writes here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import case, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import ACTIVE, Status
from service.store import checkpoints, counters, events, metrics
from service.store.database import lock_events
from service.store.identifiers import new_id
from service.store.jobs import change_status, get
from service.store.tables import Attempt, Job
from worker import events as reports
from worker.events import Failure, Finished, Started

RETRY_DELAY_S = 2.0
"""Before the first further attempt after an error that may pass; doubled for each one after it."""
REMEMBERED_CLAIMS = 16
"""So many claims are looked back on to share workers evenly."""


class Fenced(Exception):
    """A report of an attempt that is not, or no longer, the job's current one."""


@dataclass(frozen=True)
class Seat:
    """A free worker, and the node it is on."""

    worker: str
    node: str


@dataclass(frozen=True)
class Short:
    """The next job needs more workers than are free."""

    job_id: str
    num_workers: int


async def claim(
    session: AsyncSession, free: Sequence[Seat], *, slots: int | None = None, next_up: str | None = None
) -> tuple[Job, Attempt] | Short | None:
    """Give the next queued job to as many of the `free` workers as it needs, all or none. None where none waits.

    The highest priority goes first. Among equals experiments share (jobs of no experiment share as one): first the one
    that the fewest workers train for, then the one that got the fewest of the last claims, so that a small experiment
    waits for the end of a large one not even on a single worker. Within an experiment the longest waiting goes first.

    Where the next job needs more workers than are free, nothing else is given out meanwhile, or small jobs would keep
    it from ever starting: `Short` says which it is, and as `next_up` it stays the next of its priority. A job that
    needs more than all `slots` is passed over, or it would keep everything else from starting.
    """
    now = datetime.now(UTC)
    group = func.coalesce(Job.experiment_id, "")
    jobs_by_group = select(group.label("experiment"), func.count().label("jobs")).group_by(group)
    workers_by_group = select(group.label("experiment"), func.sum(Job.num_workers).label("workers")).group_by(group)
    held = workers_by_group.where(Job.status.in_(ACTIVE)).subquery()
    last = select(Attempt.job_id).order_by(Attempt.id.desc()).limit(REMEMBERED_CLAIMS).subquery()
    served = jobs_by_group.join(last, last.c.job_id == Job.id).subquery()
    waiting = (
        select(Job.id)
        .outerjoin(held, held.c.experiment == group)
        .outerjoin(served, served.c.experiment == group)
        .where(
            Job.status == Status.QUEUED,
            (Job.not_before.is_(None)) | (Job.not_before <= now),
            true() if slots is None else Job.num_workers <= slots,
        )
        .order_by(
            # Not the bare column: SQLite would walk its index over all jobs to save sorting those few that wait.
            (Job.priority + 0).desc(),
            case((Job.id == (next_up or ""), 0), else_=1),
            func.coalesce(held.c.workers, 0),
            func.coalesce(served.c.jobs, 0),
            Job.queued_at,
            Job.id,
        )
        .limit(1)
        .scalar_subquery()
    )
    query = select(Job).where(Job.id == waiting).with_for_update().execution_options(populate_existing=True)
    await lock_events(session)
    job = await session.scalar(query)
    if job is None:
        return None
    if job.num_workers > len(free):
        return Short(job.id, job.num_workers)
    seats = free[: job.num_workers]
    attempt = Attempt(
        id=new_id("attempt"),
        job_id=job.id,
        number=job.attempts + 1,
        worker=seats[0].worker,
        node=seats[0].node,
        workers=[asdict(seat) for seat in seats] if len(seats) > 1 else None,
        last_seq=0,
        resumed_from_step=0,
        started_at=now,
    )
    session.add(attempt)
    job.attempts += 1
    job.attempt_id = attempt.id
    job.started_at = job.started_at or now
    job.not_before = None
    await change_status(session, job, Status.STARTING)
    return job, attempt


@dataclass(frozen=True)
class Pending:
    """A job that the dispatcher has to see to."""

    job_id: str
    status: Status
    num_workers: int


async def pending(session: AsyncSession, limit: int, largest: int) -> Sequence[Pending]:
    """What the dispatcher has to see to: every job that is to pause or to be cancelled, and up to `limit` that wait.

    Of those that wait, none that needs more than `largest` workers. One statement, for it is asked many times a second.
    """
    now = datetime.now(UTC)
    asked = select(Job.id, Job.status, Job.num_workers).where(Job.status.in_((Status.PAUSING, Status.CANCELLING)))
    free = (Job.not_before.is_(None)) | (Job.not_before <= now)
    waits = (Job.status == Status.QUEUED) & free & (Job.num_workers <= largest)
    waiting = select(Job.id, Job.status, Job.num_workers).where(waits).limit(limit).subquery()
    found = await session.execute(asked.union_all(select(waiting.c.id, waiting.c.status, waiting.c.num_workers)))
    return [Pending(*row) for row in found]


async def active(session: AsyncSession) -> Sequence[tuple[Job, Attempt]]:
    """The jobs that workers hold, each with its current attempt."""
    query = select(Job, Attempt).join(Attempt, Attempt.id == Job.attempt_id).where(Job.status.in_(ACTIVE))
    return [(job, attempt) for job, attempt in await session.execute(query)]


async def record(
    session: AsyncSession, attempt_id: str, reported: Sequence[reports.Event], stored: Mapping[int, str]
) -> Job:
    """Write what a worker reported, once: what was recorded before is passed over.

    `stored` maps the sequence numbers of `CheckpointTaken` events to the ids under which the artifact store has their
    files. Raises `Fenced`.
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
    data = event.model_dump(mode="json", exclude={"type", "seq", "time"})
    match event:
        case reports.Progress():
            job.progress = data | {"time": event.time.isoformat()}
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
        # The worker stopped unasked: it was told by a dispatcher that is gone, or missed its polls.
        await _lose(session, job, "the worker gave the attempt up", max_lost=None)


async def fail(session: AsyncSession, attempt_id: str, failure: Failure) -> Job:
    """End an attempt by an error that the worker could not report itself. Raises `Fenced`."""
    job, attempt = await _current(session, attempt_id)
    await _end(session, attempt, "failed", failure.message)
    if job.status is Status.CANCELLING:
        await change_status(session, job, Status.CANCELLED)
    else:
        await _fail(session, job, failure)
    return job


async def lose(session: AsyncSession, attempt_id: str, reason: str, max_lost: int) -> Job:
    """End an attempt whose worker is gone: its job is queued again, from its last checkpoint. Raises `Fenced`.

    A job that lost its worker `max_lost` times without a new checkpoint in between fails: it may be what ends them.
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
        delay_s = RETRY_DELAY_S * 2**job.failures
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
