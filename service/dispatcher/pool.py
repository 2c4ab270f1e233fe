"""The warm pool: the training workers that start, are idle or are busy."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.cluster_report import WorkerActivity, WorkerReport
from service.dispatcher.cluster import Cluster, Worker, WorkerGone, WorkerState
from service.settings import Settings

logger = logging.getLogger(__name__)

START_DELAY_S = (1.0, 30.0)
"""Delay before the next start after a worker failed to start: it doubles from the first value to the second."""


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


class Pool:
    """Starts as many workers as the jobs need, within the slots of the cluster, and keeps some warm for later jobs."""

    def __init__(self, cluster: Cluster, settings: Settings, on_idle: Callable[[], None]) -> None:
        self._cluster = cluster
        self._settings = settings
        self._on_idle = on_idle
        self._slots: dict[str, Slot] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._delay_s = 0.0
        self._not_before = 0.0

    def adopt(self, worker: Worker, state: WorkerState, *, busy: bool) -> Slot:
        """Add a worker that an earlier dispatcher started."""
        slot = Slot(worker, "busy" if busy else "idle")
        _describe(slot, state)
        self._slots[worker.name] = slot
        return slot

    def ready(self) -> Sequence[Slot]:
        """The idle workers, the most recently used first, because its caches are the warmest."""
        ready = [slot for slot in self._slots.values() if slot.state == "idle"]
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

    def discard(self, slot: Slot) -> None:
        """Kill a worker, and remove it from the pool."""
        self._slots.pop(slot.worker.name, None)
        if task := self._starting.pop(slot.worker.name, None):
            task.cancel()
        slot.worker.kill()

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
                self.discard(slot)

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
        """Stop waiting for workers that are starting."""
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
        _describe(slot, state)
        logger.info("worker ready", extra={"worker": name, "seconds": round(time.monotonic() - started, 2)})
        self.give_back(slot)


def _describe(slot: Slot, state: WorkerState) -> None:
    slot.node, slot.device, slot.bfloat16, slot.pid = state.node, state.device, state.bfloat16, state.pid
