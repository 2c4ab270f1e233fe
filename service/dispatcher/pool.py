"""The warm pool: training workers that are ready, busy, or on their way."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from service.dispatcher.cluster import Cluster, Worker, WorkerGone, WorkerState
from service.settings import Settings

logger = logging.getLogger(__name__)

START_DELAY_S = (1.0, 30.0)
"""After a worker that failed to start, the next one waits so long, doubling up to the second number."""


@dataclass
class Slot:
    """A worker, and what it is good for now."""

    worker: Worker
    state: Literal["starting", "idle", "busy"]
    node: str = ""
    device: str = ""
    pid: int | None = None
    job_id: str | None = None
    attempt_id: str | None = None
    idle_since: float = field(default_factory=time.monotonic)


class Pool:
    """As many workers as there is work for, within the slots of the cluster; some are kept warm for what comes next."""

    def __init__(self, cluster: Cluster, settings: Settings, on_idle: Callable[[], None]) -> None:
        self._cluster = cluster
        self._settings = settings
        self._on_idle = on_idle
        self._slots: dict[str, Slot] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._delay_s = 0.0
        self._not_before = 0.0

    def adopt(self, worker: Worker, state: WorkerState, *, busy: bool) -> Slot:
        """Take over a worker that an earlier dispatcher started."""
        slot = Slot(worker, "busy" if busy else "idle", node=state.node, device=state.device, pid=state.pid)
        self._slots[worker.name] = slot
        return slot

    def ready(self) -> Sequence[Slot]:
        """The workers that are ready, the one used last first: its caches are the warmest."""
        ready = [slot for slot in self._slots.values() if slot.state == "idle"]
        return sorted(ready, key=lambda slot: slot.idle_since, reverse=True)

    def ceiling(self, capacity: int) -> int:
        """Workers at most, in a cluster that has room for `capacity` today."""
        return self._settings.max_workers or capacity

    def occupy(self, slot: Slot, job_id: str, attempt_id: str) -> None:
        """Mark a worker as busy with an attempt."""
        slot.state, slot.job_id, slot.attempt_id = "busy", job_id, attempt_id

    def give_back(self, slot: Slot) -> None:
        """A worker is free again."""
        slot.state, slot.job_id, slot.attempt_id = "idle", None, None
        slot.idle_since = time.monotonic()
        self._on_idle()

    def discard(self, slot: Slot) -> None:
        """A worker is gone, or no longer to be trusted."""
        self._slots.pop(slot.worker.name, None)
        if task := self._starting.pop(slot.worker.name, None):
            task.cancel()
        slot.worker.kill()

    def adjust(self, waiting: int, capacity: int) -> None:
        """Ask for workers while jobs wait for `waiting` of them, and end those that nobody needed for long.

        With a ceiling above `capacity` Ray is asked for more than it has room for: the demand an autoscaler acts on.
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
                self.discard(slot)

    def _withdraw(self, surplus: int) -> None:
        """No longer ask for workers that there is no room for, the newest first."""
        coming = [slot for slot in self._slots.values() if slot.state == "starting"]
        for slot in coming[::-1][: max(0, surplus)]:
            logger.info("worker no longer asked for", extra={"worker": slot.worker.name})
            self.discard(slot)

    def report(self) -> list[dict[str, Any]]:
        """The workers, for people."""
        return [
            {
                "id": slot.worker.name,
                "node": slot.node,
                "pid": slot.pid,
                "device": slot.device,
                "state": slot.state,
                "job": slot.job_id,
                "attempt": slot.attempt_id,
            }
            for slot in self._slots.values()
        ]

    def stop(self) -> None:
        """Stop waiting for workers that have not come yet."""
        for task in self._starting.values():
            task.cancel()

    def _start(self) -> None:
        name = f"worker-{secrets.token_hex(6)}"
        slot = Slot(self._cluster.start_worker(name), "starting")
        self._slots[name] = slot
        self._starting[name] = asyncio.create_task(self._prepare(slot), name=name)

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
            self._starting.pop(name, None)
            self.discard(slot)
            return
        self._delay_s = 0.0
        self._starting.pop(name, None)
        slot.node, slot.device, slot.pid = state.node, state.device, state.pid
        logger.info("worker ready", extra={"worker": name, "seconds": round(time.monotonic() - started, 2)})
        self.give_back(slot)
