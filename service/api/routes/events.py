"""The events of one job or of many, as pages or as a stream of server-sent events."""

import json
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import anyio
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from service.api.context import Context, JobId
from service.api.filters import JobFilterQuery
from service.api.http.head import without_body
from service.api.http.negotiation import preferred
from service.api.http.problems import describe
from service.api.schemas.job import ProgressView, progress_of
from service.api.tailer import PAGE, Progress, Subscription, Tailer
from service.jobs import TERMINAL
from service.store import Session, events, jobs
from service.store.listing import JobFilter
from service.store.tables import Event

KEEPALIVE_S = 15.0
RECONNECT_MS = 1000, 3000
"""Within this range clients are told to wait before they connect again, so that they do not all come at once."""
MAX_ID = 2**63 - 1
STREAM = "text/event-stream"

router = APIRouter(tags=["events"])

LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID",
        ge=0,
        le=MAX_ID,
        description="resume the stream after the event with this id; empty: none; an id that this database has not "
        "given to an event counts as none, and the stream begins with an event `reset`",
    ),
    BeforeValidator(
        lambda given: given or None,
        json_schema_input_type=Annotated[int, Field(ge=0, le=MAX_ID)] | Literal[""] | None,
    ),
]


class EventView(BaseModel):
    """One event. Further fields depend on its type."""

    model_config = ConfigDict(extra="allow")

    id: int
    type: str = Field(
        description="status, started, metrics, checkpoint, log or changed (its name, notes, labels or priority)"
    )
    time: datetime
    job: str
    attempt: str | None


class EventPage(BaseModel):
    """Events, oldest first."""

    data: list[EventView]
    next_cursor: str | None = Field(description="pass it as `after`; null: no further events yet")
    position: int = Field(
        description="later events come `after` this one, also as Last-Event-ID of a stream; less than the given "
        "`after` if this database has not given that id to an event"
    )


class EventsQuery(BaseModel):
    """The first event, and the number of events."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=0, ge=0, le=MAX_ID, description="only events after this id")
    limit: int = Field(default=200, ge=1, le=1000, description="events per page")
    replay: bool = Field(
        default=True,
        description="false: a stream without Last-Event-ID begins with new events; a page is empty",
    )


class AllEventsQuery(JobFilterQuery, EventsQuery):
    """The first event, the number of events, and the jobs."""


STREAM_OR_PAGE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of events, or with Accept: text/event-stream a stream that follows them",
        "content": {STREAM: {"schema": {"type": "string"}}},
    }
}


@router.get(
    "/v1/jobs/{job_id}/events",
    operation_id="list_job_events",
    response_model=EventPage,
    responses=describe(401, 404, 422, 503, answers=STREAM_OR_PAGE),
)
async def job_events(
    request: Request,
    context: Context,
    job_id: JobId,
    query: Annotated[EventsQuery, Query()],
    last_event_id: LastEventId = None,
) -> Response | EventPage:
    """The events of a job. A stream begins after `Last-Event-ID` or `after`, and ends with the job."""
    async with context.database.read() as session:
        await jobs.get(session, job_id)
        if not _wants_stream(request):
            after = await _known_after(session, query)
            return _page(await events.after(session, after, job_id=job_id, limit=query.limit), after, query.limit)
        start = await _start(session, query, last_event_id)
    return EventStream(context.tailer, start, job_id=job_id)


@router.get(
    "/v1/events",
    operation_id="list_events",
    response_model=EventPage,
    responses=describe(401, 422, 503, answers=STREAM_OR_PAGE),
)
async def all_events(
    request: Request,
    context: Context,
    query: Annotated[AllEventsQuery, Query()],
    last_event_id: LastEventId = None,
) -> Response | EventPage:
    """The events of all jobs, or of those that a filter selects. A stream of them has no end."""
    filter_ = query.job_filter()
    async with context.database.read() as session:
        if not _wants_stream(request):
            after = await _known_after(session, query)
            selection = None if filter_ == JobFilter() else filter_.job_ids()
            return _page(await events.after(session, after, jobs=selection, limit=query.limit), after, query.limit)
        start = await _start(session, query, last_event_id)
    return EventStream(context.tailer, start, filter_=filter_)


class Start(NamedTuple):
    """Where a stream begins: after an event, and with `reset` if the client named an unknown one."""

    after: int
    unknown: int | None = None


class EventStream(EventSourceResponse):
    """A stream of server-sent events: past ones, then new ones, until the job, the client or the server ends it."""

    def __init__(
        self, tailer: Tailer, start: Start, *, job_id: str | None = None, filter_: JobFilter | None = None
    ) -> None:
        self._tailer = tailer
        self._start = start
        self._sent = start.after
        self._told: dict[str, ProgressView] = {}
        self._job_id = job_id
        self._filter = None if filter_ == JobFilter() else filter_
        self._ended = False
        self._is_new = True
        self._subscription = tailer.subscribe(job_id, self._filter)
        self._content = self._follow()
        super().__init__(self._content, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, and release its subscription however it ends."""
        if without_body(scope):
            self.body_iterator = _nothing()
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._tailer.unsubscribe(self._subscription)
            await self._content.aclose()

    async def _follow(self) -> AsyncGenerator[bytes]:
        # An id without an event: a client that is cut off before the first event can still resume at this position.
        yield format_sse_event(retry=random.randint(*RECONNECT_MS), id=str(self._sent) if self._sent else None)
        if self._start.unknown is not None:
            # The id, also 0, replaces the one that the client has.
            data = json.dumps({"unknown": self._start.unknown})
            yield format_sse_event(data_str=data, event="reset", id=str(self._sent))
        subscription = self._subscription
        try:
            while not (subscription.closed or self._ended):
                if subscription.behind:
                    if caught_up := b"".join(await self._catch_up(subscription)):
                        yield caught_up
                    continue
                if encoded := b"".join(self._advance(item) for item in subscription.take() if not self._ended):
                    yield encoded
                if self._ended:
                    return
                if not await subscription.wait(KEEPALIVE_S):
                    yield KEEPALIVE_COMMENT
        finally:
            self._tailer.unsubscribe(subscription)

    async def _catch_up(self, subscription: Subscription) -> list[bytes]:
        """Return a page of the events after the last one sent. After the last page the stream is up to date."""
        subscription.catch_up()
        if self._job_id is None and self._filter is None:
            # Later the database may have been replaced.
            is_given, self._is_new = self._is_new, False
            if (recent := self._tailer.recent(self._sent, is_given=is_given)) is not None:
                return [self._advance(event) for event in recent]
        # Shielded, because a database connection that is cancelled is lost to the pool.
        with anyio.CancelScope(shield=True):
            async with self._tailer.database.read() as session:
                selection = self._filter.job_ids() if self._filter else None
                # The job is read before its events: if it has ended, all of its events exist.
                job = await jobs.find(session, self._job_id) if self._job_id else None
                found = await events.after(session, self._sent, job_id=self._job_id, jobs=selection, limit=PAGE)
                if self._sent > await events.last_id_given(session):
                    # The database was replaced. The stream breaks off, and the client that resumes it gets a `reset`.
                    self._ended = True
                    return []
        encoded = [self._advance(event) for event in found]
        if len(found) == PAGE:
            subscription.fall_behind()
        elif self._job_id is not None and not self._ended:
            if job is None or job.status in TERMINAL:
                encoded.append(self._end(job.status if job else None))
            elif (view := progress_of(job)) is not None:
                encoded.append(self._advance(Progress(job.id, view)))
        return encoded

    def _advance(self, item: Event | Progress) -> bytes:
        """Encode an item unless it was sent already; the event that ends the job is followed by `end`."""
        if isinstance(item, Progress):
            if self._told.get(item.job_id) == item.view:
                return b""
            self._told[item.job_id] = item.view
            return _once(item, _encode_progress)
        if item.id <= self._sent:
            return b""
        self._sent = item.id
        encoded = _once(item, _encode)
        if self._job_id is not None and item.type == "status" and item.data["status"] in TERMINAL:
            encoded += self._end(item.data["status"])
        return encoded

    def _end(self, status: str | None) -> bytes:
        self._ended = True
        return format_sse_event(data_str=json.dumps({"status": status}), event="end")


async def _nothing() -> AsyncGenerator[bytes]:
    return
    yield


async def _after(session: Session, query: EventsQuery) -> int:
    return query.after if query.replay else await events.last_id(session)


async def _known_after(session: Session, query: EventsQuery) -> int:
    return min(await _after(session, query), await events.last_id_given(session))


async def _start(session: Session, query: EventsQuery, last_event_id: int | None) -> Start:
    """Return where a stream begins. A known Last-Event-ID takes precedence over the query."""
    newest = await events.last_id_given(session)
    if last_event_id is not None and last_event_id <= newest:
        return Start(last_event_id)
    after = await _after(session, query)
    return Start(after, last_event_id) if after <= newest else Start(0, after)


def _wants_stream(request: Request) -> bool:
    return preferred(request.headers.get("accept"), ["application/json", STREAM]) == STREAM


def _page(found: Sequence[Event], after: int, limit: int) -> EventPage:
    data = [EventView(**_fields(event)) for event in found]
    position = data[-1].id if data else after
    return EventPage(data=data, next_cursor=str(position) if len(data) == limit else None, position=position)


def _fields(event: Event) -> dict[str, Any]:
    data = dict(event.data)
    if "id" in data:  # the id of a checkpoint event is that of the checkpoint
        data["checkpoint"] = data.pop("id")
    return data | {
        "id": event.id,
        "type": event.type,
        "time": event.time,
        "job": event.job_id,
        "attempt": event.attempt_id,
    }


_Item = TypeVar("_Item", Event, Progress)
_encoded: WeakKeyDictionary[Event | Progress, bytes] = WeakKeyDictionary()


def _once(item: _Item, encode: Callable[[_Item], bytes]) -> bytes:
    """Encode an item that the tailer gave to many streams once."""
    encoded = _encoded.get(item)
    if encoded is None:
        encoded = _encoded[item] = encode(item)
    return encoded


def _encode(event: Event) -> bytes:
    data = EventView(**_fields(event)).model_dump_json()
    return format_sse_event(data_str=data, event=event.type, id=str(event.id))


def _encode_progress(progress: Progress) -> bytes:
    data = {"job": progress.job_id} | progress.view.model_dump()
    return format_sse_event(data_str=json.dumps(data), event="progress")
