"""Following the events: one reader of the database wakes every open stream of the process.

A stream that begins, or that fell behind, reads what it missed itself, by id; from then on it is handed what the one
reader finds. So the database is asked a few times a second, however many streams are open, and never by a stream that
waits.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from service.api.schemas.job import ProgressView, progress_of
from service.store import Database, DatabaseError, events, jobs, listing
from service.store.listing import JobFilter
from service.store.tables import Event

INTERVAL_S = 0.2
ENDING_S = 2.0
AFTER_FAILURE_S = 1.0
PAGE = 500
BACKLOG = 2000
"""Events kept for a stream that does not take them; beyond, it reads them from the database later."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """A job's progress, as of now. It has no id: nobody needs one that was missed."""

    job_id: str
    view: ProgressView


@dataclass(eq=False)
class Subscription:
    """What one stream is to be told. It wants one job, the jobs of a filter, or all."""

    job_id: str | None
    filter: JobFilter | None
    backlog: list[Event | Progress] = field(default_factory=list)
    behind: bool = True
    closed: bool = False
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def fall_behind(self) -> None:
        """Have the stream read the database by itself once more."""
        self.backlog.clear()
        self.behind = True
        self._woken.set()

    def offer(self, items: Sequence[Event | Progress]) -> None:
        """Hand over what is new."""
        if self.behind or not items:
            return
        if len(self.backlog) + len(items) > BACKLOG:
            self.fall_behind()
            return
        self.backlog += items
        self._woken.set()

    def close(self) -> None:
        """End the stream."""
        self.closed = True
        self._woken.set()

    def catch_up(self) -> None:
        """The stream is about to read the database: from now on it is handed what is new."""
        self.take()
        self.behind = False

    def take(self) -> Sequence[Event | Progress]:
        """What was handed over since the last time."""
        taken, self.backlog = self.backlog, []
        self._woken.clear()
        return taken

    async def wait(self, timeout_s: float) -> bool:
        """Wait until there is something to take, to read, or an end; false when nothing came in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


class Tailer:
    """The one reader, and the streams that it wakes. It rests while no stream is open."""

    def __init__(self, database: Database, interval_s: float = INTERVAL_S) -> None:
        self.database = database
        self.interval_s = interval_s
        self.reads = 0
        self.closed = False
        self._subscriptions: set[Subscription] = set()
        self._wanted = asyncio.Event()
        self._closing = asyncio.Event()
        self._tail = 0
        self._progress: dict[str, ProgressView | None] = {}

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._subscriptions)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the events for as long as the context is open."""
        task = asyncio.create_task(self._run(), name="tailer")
        try:
            yield
        finally:
            self.close()
            # Not cancelled unless it must be: a connection that is cancelled while it reads is lost to the pool.
            await asyncio.wait({task}, timeout=ENDING_S)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def close(self) -> None:
        """End every stream now, and each that would begin, and the reader."""
        self.closed = True
        self._closing.set()
        self._wanted.set()
        for subscription in self._subscriptions:
            subscription.close()

    @contextmanager
    def subscribe(self, job_id: str | None = None, filter_: JobFilter | None = None) -> Iterator[Subscription]:
        """Take part; the subscription begins behind."""
        subscription = Subscription(job_id, filter_, closed=self.closed)
        self._subscriptions.add(subscription)
        self._wanted.set()
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    async def _run(self) -> None:
        while not self.closed:
            await self._wanted.wait()
            try:
                await self._follow()
            except (DatabaseError, OSError):
                log.exception("Following the events failed; trying again")
                await self._pause(AFTER_FAILURE_S)

    async def _pause(self, duration_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self._closing.wait()

    async def _follow(self) -> None:
        async with self.database.read() as session:
            self._tail = await events.last_id(session)
            self.reads += 1
        self._progress = {}
        # Between a stream's own reading and the line above something may have been added that nobody hands over.
        for subscription in self._subscriptions:
            subscription.fall_behind()
        while self._subscriptions and not self.closed:
            await self._pause(self.interval_s)
            await self._tick()
        if not self.closed:
            self._wanted.clear()

    async def _tick(self) -> None:
        async with self.database.read() as session:
            self.reads += 1
            found = await events.after(session, self._tail, limit=PAGE)
            active = await jobs.active(session)
            wanted: dict[int, set[str]] = {}
            concerned = {event.job_id for event in found} | {job.id for job in active}
            selections: dict[str, set[str]] = {}
            for subscription in list(self._subscriptions):
                if subscription.filter is not None and concerned:
                    key = repr(subscription.filter)
                    if key not in selections:
                        selections[key] = await listing.among(session, subscription.filter, concerned)
                    wanted[id(subscription)] = selections[key]
        if found:
            self._tail = found[-1].id
        progress = {job.id: progress_of(job) for job in active}
        changed = [
            Progress(job_id, view)
            for job_id, view in progress.items()
            if view is not None and view != self._progress.get(job_id)
        ]
        self._progress = progress
        items: list[Event | Progress] = [*found, *changed]
        for subscription in list(self._subscriptions):
            if subscription.job_id is not None:
                subscription.offer([item for item in items if item.job_id == subscription.job_id])
            elif subscription.filter is not None:
                among = wanted.get(id(subscription), set())
                subscription.offer([item for item in items if item.job_id in among])
            else:
                subscription.offer(items)
