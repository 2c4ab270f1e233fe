"""The event tailer: one reader of the database that feeds all event streams of the process.

A stream that starts, or that fell behind, reads the missed events itself, by id. A stream of all jobs takes the latest
ones from the memory of the tailer instead, so that hundreds of clients that come back after a restart do not all read
the database. From then on a stream receives the events that the tailer reads: when the database notifies, and every
`INTERVAL_S` in case a notification was lost. It reads once for any number of streams, and not at all without one.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from service.api.schemas.job import ProgressView, progress_of
from service.errors import TooManyStreams
from service.store import Channel, Database, DatabaseError, events, jobs, listing
from service.store.listing import JobFilter
from service.store.tables import Event

INTERVAL_S = 1.0
"""Seconds between two reads without a notification."""
GAP_S = 0.1
"""Least pause between two reads, however many notifications arrive."""
ENDING_S = 2.0
AFTER_FAILURE_S = 1.0
PAGE = 500
BACKLOG = 2000
"""Events that are buffered for a slow stream. Beyond, it reads them from the database later."""
RECENT = 500
"""Events that are kept in memory for streams that come back, at least."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Progress:
    """The current progress of a job. It has no id, because an outdated one is never replayed."""

    job_id: str
    view: ProgressView


@dataclass(eq=False)
class Subscription:
    """The subscription of one stream: to one job, to the jobs of a filter, or to all."""

    job_id: str | None
    filter: JobFilter | None
    backlog: list[Event | Progress] = field(default_factory=list)
    behind: bool = True
    closed: bool = False
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    def fall_behind(self) -> None:
        """Make the stream read the database again."""
        self.backlog.clear()
        self.behind = True
        self._woken.set()

    def offer(self, items: Sequence[Event | Progress]) -> None:
        """Add new items to the backlog."""
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
        """Note that the stream is about to read the database. New items are added to its backlog from now on."""
        self.take()
        self.behind = False

    def take(self) -> Sequence[Event | Progress]:
        """Return and clear the backlog."""
        taken, self.backlog = self.backlog, []
        self._woken.clear()
        return taken

    async def wait(self, timeout_s: float) -> bool:
        """Wait for new items, a fallback to the database, or the end. Returns False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True


class Tailer:
    """Reads events from the database while streams are open, and distributes them."""

    def __init__(self, database: Database, max_streams: int, interval_s: float = INTERVAL_S) -> None:
        self.database = database
        self.max_streams = max_streams
        self.interval_s = interval_s
        self.reads = 0
        self.closed = False
        self._subscriptions: set[Subscription] = set()
        self._full = False
        """Whether the maximum was logged since it was reached."""
        self._wanted = asyncio.Event()
        self._notified = asyncio.Event()
        self._closing = asyncio.Event()
        self._tail = 0
        self._recent: list[Event] | None = None
        """All events after `_recent_after` up to `_tail`; None while nothing is read."""
        self._recent_after = 0
        self._progress: dict[str, ProgressView | None] = {}

    def __len__(self) -> int:
        """The number of open streams."""
        return len(self._subscriptions)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the tailer within the context."""
        task = asyncio.create_task(self._run(), name="tailer")
        async with self.database.listen(Channel.EVENTS, self._notified.set):
            try:
                yield
            finally:
                self.close()
                # Cancelled only as a last resort: a connection that is cancelled while it reads is lost to the pool.
                await asyncio.wait({task}, timeout=ENDING_S)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def close(self) -> None:
        """End all streams, those that would still start, and the tailer."""
        self.closed = True
        self._closing.set()
        self._wanted.set()
        self._notified.set()
        for subscription in self._subscriptions:
            subscription.close()

    def subscribe(self, job_id: str | None = None, filter_: JobFilter | None = None) -> Subscription:
        """Subscribe a stream, until `unsubscribe`. It has to read the database first.

        Raises:
            TooManyStreams: `max_streams` are open.
        """
        if len(self) >= self.max_streams:
            if not self._full:
                log.warning("%d event streams are open, the maximum: further ones get 503", len(self))
            self._full = True
            raise TooManyStreams(
                f"{len(self)} event streams are open, the maximum of this process: close some, or raise "
                "NORMLAB_MAX_STREAMS and the limit of open files (ulimit -n)."
            )
        subscription = Subscription(job_id, filter_, closed=self.closed)
        self._subscriptions.add(subscription)
        self._wanted.set()
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Release the place of a stream. Idempotent."""
        self._subscriptions.discard(subscription)
        if len(self) <= 0.9 * self.max_streams:
            self._full = False

    def recent(self, after: int, *, is_given: bool = False) -> list[Event] | None:
        """Return the events after an id, up to those that streams have received; None if the database must be read.

        Args:
            after: An id.
            is_given: Whether the database has given it to an event, which may be newer than those that were read.
        """
        if self._recent is None or after < self._recent_after or (after > self._tail and not is_given):
            return None
        return [event for event in self._recent if event.id > after]

    async def _run(self) -> None:
        while not self.closed:
            await self._wanted.wait()
            try:
                await self._follow()
            except (DatabaseError, OSError):
                log.exception("reading events failed; trying again")
                self._recent = None
                await self._pause(AFTER_FAILURE_S)

    async def _pause(self, duration_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self._closing.wait()

    async def _wait_for_events(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.interval_s):
                await self._notified.wait()
        self._notified.clear()

    async def _follow(self) -> None:
        async with self.database.read() as session:
            tail = await events.last_id(session)
            after = max(0, tail - RECENT)
            recent = await events.after(session, after, limit=RECENT)
            self.reads += 1
        self._tail, self._recent_after, self._recent = tail, after, [event for event in recent if event.id <= tail]
        self._progress = {}
        # Events that were added between the reading of a stream and the line above would be missed otherwise.
        for subscription in self._subscriptions:
            subscription.fall_behind()
        while self._subscriptions and not self.closed:
            await self._wait_for_events()
            await self._tick()
            await self._pause(GAP_S)
        self._recent = None
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
            self._remember(found)
        if len(found) == PAGE:
            self._notified.set()  # there may be more of them than fit on a page
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

    def _remember(self, found: Sequence[Event]) -> None:
        assert self._recent is not None, "the tailer follows"
        self._recent += found
        if len(self._recent) > 2 * RECENT:
            self._recent_after = self._recent[-RECENT - 1].id
            del self._recent[:-RECENT]
