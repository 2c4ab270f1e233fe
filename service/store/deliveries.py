"""Deliveries: what the webhook is told of the ends of jobs and experiments, until it has accepted it.

The ends are read from the events, which are stored with the statuses, whichever process ends a job. Each step is a
transaction: a process that is killed leaves a delivery that the next one sends.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.experiments.titles import job_title
from service.jobs import TERMINAL
from service.store import experiments
from service.store.identifiers import new_id
from service.store.tables import Counter, Delivery, Event, Experiment, Job

DeliveryStatus = Literal["waiting", "pending", "delivered", "failed"]

POSITION, READ_AT = ("webhook", "position"), ("webhook", "read_at")
"""The counters with the id of the last event that was read, and with the time of that, in seconds since 1970."""
FRESH_S = 60.0
"""Seconds after which the time is stored again, although there is no new event."""
SLACK_S = 3600.0
"""An event that is older than the last reading by more than this was not made here, but imported."""
AT_ONCE = 500
"""Number of events that one transaction reads."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0
"""Pause after the first try that failed, which doubles with every further one, and its upper limit."""
MOST_TRIES = 30
"""Number of tries after which a delivery fails: about a day."""
KEPT = timedelta(days=30)
"""Time for which ended deliveries are kept."""


async def has_news(session: AsyncSession) -> bool:
    """Return whether `collect` has something to do."""
    position, read_at = await session.get(Counter, POSITION), await session.get(Counter, READ_AT)
    if position is None or read_at is None or datetime.now(UTC).timestamp() - read_at.value > FRESH_S:
        return True
    last = await session.scalar(select(func.max(Event.id))) or 0
    waits = select(Delivery.id).where(Delivery.status == "waiting").limit(1)
    return last > position.value or await session.scalar(waits) is not None


async def collect(session: AsyncSession) -> None:
    """Add deliveries for the jobs and experiments that have ended since the last call.

    What ended before the first call is not told, and neither are the jobs of an imported bundle, unless they ended less
    than an hour before.
    """
    now = datetime.now(UTC)
    last = await session.scalar(select(func.max(Event.id))) or 0
    position, read_at = await session.get(Counter, POSITION), await session.get(Counter, READ_AT)
    if position is None or read_at is None:
        for (name, label), value in ((POSITION, last), (READ_AT, now.timestamp())):
            session.add(Counter(name=name, label=label, value=value))
        return
    query = select(Event).where(Event.id > position.value, Event.id <= last, Event.type == "status")
    found = (await session.scalars(query.order_by(Event.id).limit(AT_ONCE))).all()
    for event in found:
        if event.data["status"] in TERMINAL and event.time.timestamp() > read_at.value - SLACK_S:
            await _add_job(session, event, now)
    position.value = found[-1].id if len(found) == AT_ONCE else max(position.value, last)
    read_at.value = max(read_at.value, now.timestamp())
    await session.flush()
    await _settle_experiments(session, now)
    old = now - KEPT
    await session.execute(delete(Delivery).where(Delivery.status.in_(("delivered", "failed")), Delivery.ended_at < old))


async def _add_job(session: AsyncSession, event: Event, now: datetime) -> None:
    job = await session.get(Job, event.job_id)
    assert job is not None, "a job is deleted with its events"
    data = {
        "job": job.id,
        "title": job_title(job.name, job.spec),
        "status": event.data["status"],
        "experiment": job.experiment_id,
        "submitted_by": job.submitted_by,
        "path": f"/jobs/{job.id}",
    }
    session.add(_delivery("job.ended", job.id, now, body=_body("job.ended", event.time, data)))
    if job.experiment_id is None:
        return
    waiting = select(Delivery.id).where(Delivery.status == "waiting", Delivery.subject == job.experiment_id)
    if await session.scalar(waiting) is None:
        session.add(_delivery("experiment.ended", job.experiment_id, now, body=None))
        await session.flush()


async def _settle_experiments(session: AsyncSession, now: datetime) -> None:
    """Make the deliveries of experiments pending that have ended; remove those of deleted ones."""
    for delivery in (await session.scalars(select(Delivery).where(Delivery.status == "waiting"))).all():
        experiment = await session.get(Experiment, delivery.subject)
        if experiment is None:
            await session.delete(delivery)
            continue
        counts = (await experiments.counts(session, [experiment.id])).get(experiment.id, {})
        if experiment.deciding or set(counts) - TERMINAL:
            continue
        data = {
            "experiment": experiment.id,
            "name": experiment.name,
            "status": "cancelled" if experiment.requested_state == experiments.CANCELLED else "finished",
            "counts": {status.value: count for status, count in counts.items()},
            "submitted_by": experiment.submitted_by,
            "path": f"/experiments/{experiment.id}",
        }
        delivery.status, delivery.body = "pending", _body("experiment.ended", now, data)
        delivery.not_before = now


def _body(event: str, time: datetime, data: dict[str, Any]) -> dict[str, Any]:
    return {"type": event, "timestamp": time.isoformat(), "data": data}


def _delivery(event: str, subject: str, now: datetime, body: dict[str, Any] | None) -> Delivery:
    return Delivery(
        id=new_id("delivery"),
        event=event,
        subject=subject,
        status="waiting" if body is None else "pending",
        body=body,
        tries=0,
        not_before=now,
        created_at=now,
    )


async def due(session: AsyncSession, limit: int) -> Sequence[Delivery]:
    """Return pending deliveries that may be sent now, those that have waited longest first."""
    query = select(Delivery).where(Delivery.status == "pending", Delivery.not_before <= datetime.now(UTC))
    # "job.ended" before "experiment.ended", which follows from it.
    order = (Delivery.not_before, Delivery.event.desc(), Delivery.id)
    return (await session.scalars(query.order_by(*order).limit(limit))).all()


async def record(session: AsyncSession, delivery_id: str, answer: int | None, error: str | None) -> None:
    """Record a try: the HTTP status of the answer, and why the delivery has to be repeated, None if it has not."""
    delivery = await session.get(Delivery, delivery_id)
    if delivery is None or delivery.status != "pending":
        return
    now = datetime.now(UTC)
    delivery.tries += 1
    delivery.answer, delivery.error = answer, error
    if error is None or delivery.tries >= MOST_TRIES:
        delivery.status, delivery.ended_at = ("delivered" if error is None else "failed"), now
        return
    pause_s = min(FIRST_PAUSE_S * 2 ** (delivery.tries - 1), LONGEST_PAUSE_S)
    delivery.not_before = now + timedelta(seconds=pause_s)


async def page(
    session: AsyncSession, *, status: Sequence[DeliveryStatus] = (), limit: int = 50, cursor: str | None = None
) -> tuple[Sequence[Delivery], str | None]:
    """Return a page of deliveries, newest first, and the cursor of the next or None."""
    query = select(Delivery).order_by(Delivery.id.desc()).limit(limit + 1)
    if status:
        query = query.where(Delivery.status.in_(status))
    if cursor is not None:
        query = query.where(Delivery.id < cursor)
    found = (await session.scalars(query)).all()
    return found[:limit], found[limit - 1].id if len(found) > limit else None
