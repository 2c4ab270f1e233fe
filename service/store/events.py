"""The event streams of the jobs. Ids increase in the order in which events become visible to readers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import Status
from service.store.columns import storable
from service.store.database import lock_events
from service.store.notifications import Channel, notify
from service.store.tables import Event, Import, Job

_VISIBLE = Event.job_id.not_in(select(Job.id).join(Import, Import.experiment_id == Job.experiment_id))
FOR_THE_DISPATCHER = frozenset({Status.QUEUED, Status.PAUSING, Status.CANCELLING})
"""The statuses of a job in which the dispatcher has to act."""


async def add(
    session: AsyncSession,
    job_id: str,
    type_: str,
    data: dict[str, Any],
    time: datetime,
    *,
    attempt_id: str | None = None,
    seq: int | None = None,
) -> Event:
    """Append an event to the stream of a job."""
    await lock_events(session)
    event = Event(job_id=job_id, attempt_id=attempt_id, seq=seq, type=type_, time=time, data=data)
    session.add(event)
    await session.flush()
    await _notify(session, [(type_, data)])
    return event


async def add_all(session: AsyncSession, rows: Sequence[dict[str, Any]]) -> None:
    """Append events to the streams of several jobs. A row has job_id, attempt_id, type, time and data."""
    if rows:
        await lock_events(session)
        await session.execute(insert(Event), rows)
        await _notify(session, [(row["type"], row["data"]) for row in rows])


async def _notify(session: AsyncSession, added: Sequence[tuple[str, dict[str, Any]]]) -> None:
    await notify(session, Channel.EVENTS)
    if any(type_ == "status" and data["status"] in FOR_THE_DISPATCHER for type_, data in added):
        await notify(session, Channel.QUEUE)


async def after(
    session: AsyncSession,
    event_id: int,
    *,
    job_id: str | None = None,
    jobs: Select[str] | None = None,
    limit: int = 500,
) -> Sequence[Event]:
    """The events after `event_id`, oldest first: of one job, of those that a query selects, or of all visible jobs."""
    query = select(Event).where(Event.id > event_id, _VISIBLE).order_by(Event.id).limit(limit)
    if job_id is not None:
        query = query.where(Event.job_id == job_id)
    if jobs is not None:
        query = query.where(Event.job_id.in_(jobs))
    return (await session.scalars(query)).all()


async def last_id(session: AsyncSession) -> int:
    """The id of the newest event, or 0 if there is none."""
    return (await session.scalar(select(func.max(Event.id)))) or 0


async def last_id_given(session: AsyncSession) -> int:
    """The largest id that an event has ever had in this database, or 0. The event may have been deleted since."""
    if session.get_bind().dialect.name == "postgresql":
        query = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM events_id_seq"
    else:
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
    return (await session.scalar(text(query))) or 0


async def of_type(session: AsyncSession, job_id: str, type_: str) -> Sequence[Event]:
    """All events of one type of a job, oldest first."""
    query = select(Event).where(Event.job_id == job_id, Event.type == type_).order_by(Event.id)
    return (await session.scalars(query)).all()


async def last_queued_at(session: AsyncSession, job_id: str) -> datetime:
    """When the job was last queued."""
    history = await of_type(session, job_id, "status")
    return [event.time for event in history if event.data["status"] == "queued"][-1]


async def logs(
    session: AsyncSession,
    job_id: str,
    *,
    after_id: int = 0,
    levels: Sequence[str] = (),
    search: str | None = None,
    limit: int = 500,
) -> Sequence[Event]:
    """The log lines of a job after `after_id`, oldest first. `search` matches a part of the message, ignoring case."""
    query = select(Event).where(Event.job_id == job_id, Event.type == "log", Event.id > after_id)
    if levels:
        query = query.where(Event.data["level"].as_string().in_(levels))
    if search:
        query = query.where(Event.data["message"].as_string().icontains(storable(search), autoescape=True))
    return (await session.scalars(query.order_by(Event.id).limit(limit))).all()
