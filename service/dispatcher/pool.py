"""The warm pool: the training workers that start, are idle or are busy."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from service.cluster_report import WorkerActivity, WorkerReport
from service.dispatcher.cluster import Actor, Cluster, Worker, WorkerGone, WorkerState
from service.settings import Settings

logger = logging.getLogger(__name__)

START_DELAY_S = (1.0, 30.0)
"""Delay before the next start after a worker failed to start: it doubles from the first value to the second."""
READY_LIMIT_S = 300.0
"""A worker that is not ready this long after Ray has created it, or could have, is replaced."""
HEARD_S = 1.0
"""No attempt starts on a worker that was not heard from within this time."""
PING_S = 3.0
"""A worker that was not heard from for this time is asked whether it responds, also if it has nothing to do."""
SILENCE_S: Mapping[WorkerActivity, int] = {"idle": 5, "busy": 10}
"""A worker whose training process does not answer for this time is replaced."""
STRANGER_LOOKS = 10
"""The number of looks after which Ray is asked again to end a worker that is not in the pool."""
SHORTEST_PAUSE_S = 0.05
"""Shortest pause between two looks at when the workers were heard from."""


@dataclass
class Slot:
    """A worker and its state."""

    worker: Worker
    state: WorkerActivity
    node: str = ""
    device: str = ""
    bfloat16: bool = False
    pid: int | None = None
    job_id: str | None = None
    attempt_id: str | None = None
    idle_since: float = field(default_factory=time.monotonic)
    began_at: float = field(default_factory=time.monotonic)
    """When it was started, or when there was room for it."""
    missing: bool = False
    """Whether Ray did not list it at the last look."""

    @property
    def silent_s(self) -> float:
        """The seconds since it was heard from."""
        return time.monotonic() - self.worker.heard_at


class Pool:
    """Starts as many workers as the jobs need, within the slots of the cluster, and keeps some warm for later jobs."""

    def __init__(self, cluster: Cluster, settings: Settings, on_idle: Callable[[], None]) -> None:
        self._cluster = cluster
        self._settings = settings
        self._on_idle = on_idle
        self._slots: dict[str, Slot] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._pings: dict[str, asyncio.Task[None]] = {}
        self._strangers: dict[str, int] = {}
        self._delay_s = 0.0
        self._not_before = 0.0

    def adopt(self, worker: Worker, state: WorkerState, *, busy: bool) -> Slot:
        """Add a worker that an earlier dispatcher started."""
        slot = Slot(worker, "busy" if busy else "idle" if state.ready else "starting")
        _describe(slot, state)
        self._slots[worker.name] = slot
        if slot.state == "starting":
            self._await_ready(slot)
        return slot

    def ready(self) -> Sequence[Slot]:
        """The idle workers that respond, the most recently used first, because its caches are the warmest.

        A worker that was not heard from lately is asked, and counts again once it has answered.
        """
        ready = []
        for slot in self._slots.values():
            if slot.state == "idle":
                if slot.silent_s <= HEARD_S:
                    ready.append(slot)
                else:
                    self._ping_soon(slot)
        return sorted(ready, key=lambda slot: slot.idle_since, reverse=True)

    def devices(self) -> Sequence[tuple[str, bool]]:
        """The device of each worker that has started, and whether it computes in bfloat16."""
        return [(slot.device, slot.bfloat16) for slot in self._slots.values() if slot.state != "starting"]

    def ceiling(self, capacity: int) -> int:
        """The maximum number of workers, in a cluster that has room for `capacity` now."""
        return self._settings.max_workers or capacity

    def occupy(self, slot: Slot, job_id: str, attempt_id: str) -> None:
        """Mark a worker as busy with an attempt."""
        slot.state, slot.job_id, slot.attempt_id = "busy", job_id, attempt_id

    def give_back(self, slot: Slot) -> None:
        """Mark a worker as idle."""
        slot.state, slot.job_id, slot.attempt_id = "idle", None, None
        slot.idle_since = time.monotonic()
        self._on_idle()

    def discard(self, slot: Slot, reason: str = "the worker was killed") -> None:
        """Kill a worker, and remove it from the pool. Calls that wait for it end with the reason."""
        self._remove(slot)
        slot.worker.kill(reason)

    def _remove(self, slot: Slot) -> None:
        self._slots.pop(slot.worker.name, None)
        for tasks in (self._starting, self._pings):
            if (task := tasks.pop(slot.worker.name, None)) and task is not asyncio.current_task():
                task.cancel()

    async def watch(self) -> None:
        """Ask the workers that were not heard from whether they respond, forever, and replace those that do not."""
        while True:
            pause_s = PING_S
            for slot in list(self._slots.values()):
                if slot.state != "starting" and slot.worker.name not in self._pings:
                    if (left_s := PING_S - slot.silent_s) <= 0:
                        self._ping_soon(slot)
                    else:
                        pause_s = min(pause_s, left_s)
            await asyncio.sleep(max(pause_s, SHORTEST_PAUSE_S))

    def _ping_soon(self, slot: Slot) -> None:
        name = slot.worker.name
        if name not in self._pings:
            self._pings[name] = asyncio.create_task(self._ping(slot), name=f"ping {name}")

    async def _ping(self, slot: Slot) -> None:
        before = slot.worker.heard_at
        try:
            await slot.worker.ping(SILENCE_S[slot.state])
        except WorkerGone as error:
            self._replace(slot, str(error))
        else:
            if slot.state == "idle" and slot.worker.heard_at - before > HEARD_S:
                self._on_idle()
        finally:
            self._pings.pop(slot.worker.name, None)

    def _replace(self, slot: Slot, reason: str) -> None:
        if self._slots.get(slot.worker.name) is slot:
            logger.warning("worker replaced: %s", reason, extra={"worker": slot.worker.name})
            self.discard(slot, reason)
            self._on_idle()

    def reconcile(self, actors: Sequence[Actor], capacity: int) -> None:
        """Compare the workers of the pool with those that Ray has, and end what only one of both has.

        Both may be about to change, so only what two looks in a row find counts.

        Args:
            actors: The workers that Ray has.
            capacity: The number of workers that the cluster has room for now.
        """
        known = {actor.name: actor for actor in actors}
        self._strangers = {name: self._strangers.get(name, 0) + 1 for name in known.keys() - self._slots.keys()}
        for name, looks in self._strangers.items():
            if looks == 2 or looks % STRANGER_LOOKS == 0:
                logger.warning("worker ended: it is not in the pool", extra={"worker": name})
                self._cluster.end(known[name])
        for number, slot in enumerate(list(self._slots.values())):
            actor, missing = known.get(slot.worker.name), slot.missing
            slot.missing = actor is None
            if slot.state != "starting":
                if missing and actor is None:
                    self._replace(slot, "Ray no longer has the worker")
            elif number >= capacity and not (actor and actor.alive):
                slot.began_at = time.monotonic()
            elif time.monotonic() - slot.began_at > READY_LIMIT_S:
                self._replace(slot, f"it was not ready after {READY_LIMIT_S:g} s")

    def adjust(self, waiting: int, capacity: int) -> None:
        """Start workers for queued jobs, and end workers that were idle for `worker_idle_s` seconds.

        With a ceiling above `capacity`, Ray is asked for more workers than it has room for: an autoscaler acts on this
        demand.

        Args:
            waiting: The number of workers that the queued jobs need.
            capacity: The number of workers that the cluster has room for now.
        """
        busy = sum(slot.state == "busy" for slot in self._slots.values())
        wanted = min(max(self._settings.warm_workers, busy + waiting), self.ceiling(capacity))
        while len(self._slots) < wanted and time.monotonic() >= self._not_before:
            self._start()
        if not waiting:
            self._withdraw(len(self._slots) - max(wanted, capacity))
        idle = sorted((slot for slot in self._slots.values() if slot.state == "idle"), key=lambda slot: slot.idle_since)
        for slot in idle[: max(0, len(self._slots) - wanted)]:
            if time.monotonic() - slot.idle_since > self._settings.worker_idle_s:
                logger.info("worker ended: idle for too long", extra={"worker": slot.worker.name})
                self._remove(slot)
                slot.worker.retire()

    def _withdraw(self, surplus: int) -> None:
        """Withdraw the requests for workers that Ray has no room for, the newest first."""
        starting = [slot for slot in self._slots.values() if slot.state == "starting"]
        for slot in starting[::-1][: max(0, surplus)]:
            logger.info("worker no longer requested", extra={"worker": slot.worker.name})
            self.discard(slot)

    def report(self) -> list[WorkerReport]:
        """The state of each worker."""
        return [
            WorkerReport(
                id=slot.worker.name,
                node=slot.node,
                pid=slot.pid,
                device=slot.device,
                bfloat16=slot.bfloat16,
                state=slot.state,
                job=slot.job_id,
                attempt=slot.attempt_id,
            )
            for slot in self._slots.values()
        ]

    def stop(self) -> None:
        """Stop waiting for workers."""
        for task in (*self._starting.values(), *self._pings.values()):
            task.cancel()

    def _start(self) -> None:
        name = f"worker-{secrets.token_hex(6)}"
        self._slots[name] = slot = Slot(self._cluster.start_worker(name), "starting")
        self._await_ready(slot)

    def _await_ready(self, slot: Slot) -> None:
        self._starting[slot.worker.name] = asyncio.create_task(self._prepare(slot), name=slot.worker.name)

    async def _prepare(self, slot: Slot) -> None:
        name = slot.worker.name
        started = time.monotonic()
        try:
            state = await slot.worker.prepare()
        except WorkerGone as error:
            shortest, longest = START_DELAY_S
            self._delay_s = min(max(2 * self._delay_s, shortest), longest)
            self._not_before = time.monotonic() + self._delay_s
            logger.error("worker did not start: %s", error, extra={"worker": name})
            self.discard(slot)
            return
        self._delay_s = 0.0
        self._starting.pop(name, None)
        _describe(slot, state)
        logger.info("worker ready", extra={"worker": name, "seconds": round(time.monotonic() - started, 2)})
        self.give_back(slot)


def _describe(slot: Slot, state: WorkerState) -> None:
    slot.node, slot.device, slot.bfloat16, slot.pid = state.node, state.device, state.bfloat16, state.pid
