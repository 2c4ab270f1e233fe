"""The training worker: a live process that trains one attempt after another, and keeps what is warm between them.

It knows neither database nor artifact store. The dispatcher pulls: what is reported waits here until a poll
acknowledges it. A worker that is not polled for its lease stops training: by then its job may be somebody else's.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import ray

from worker.datasets import ImageDataset
from worker.events import CheckpointTaken, Event, Finished
from worker.spec import TrainingSpec

if TYPE_CHECKING:
    from worker.checkpoint import Checkpoint

Request = Literal["pause", "cancel"]

CONCURRENT_CALLS = 8
"""Calls an actor answers at once: a poll waits, and the others must get through meanwhile."""

MALLOC_ENVIRONMENT = {
    # glibc gives large blocks back to the system and gets them anew, zeroed page by page, on the next step. Kept in one
    # heap, a step reuses the memory of the step before. One arena, because the heaps of further ones hold 64 MiB each.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""The environment a CPU worker needs from its start."""


@dataclass(frozen=True)
class WorkerState:
    """What a worker says of itself."""

    node: str
    pid: int
    device: str
    attempt_id: str | None
    finished: bool


@dataclass(frozen=True)
class Report:
    """The answer to a poll: events in order, and references to the files of the checkpoints among them by `seq`."""

    events: Sequence[Event]
    checkpoints: Mapping[int, Any]


class _Run:
    """One attempt at work in its own thread, and what it has reported so far."""

    def __init__(self, attempt_id: str, lease_s: float) -> None:
        self.attempt_id = attempt_id
        self.changed = threading.Condition()
        self.request: Request | None = None
        self.finished = False
        self._lease_s = lease_s
        self._polled_at = time.monotonic()
        self._last_seq = 0
        self._events: list[Event] = []
        self._checkpoints: dict[int, Any] = {}

    def report(self, event: Event, files: Any = None) -> None:
        with self.changed:
            self._last_seq += 1
            self._events.append(event.model_copy(update={"seq": self._last_seq}))
            if files is not None:
                self._checkpoints[self._last_seq] = files
            self.finished = isinstance(event, Finished)
            self.changed.notify_all()

    def save(self, event: CheckpointTaken, checkpoint: "Checkpoint") -> None:
        self.report(event, ray.put(checkpoint.files))

    def control(self) -> Request | None:
        if time.monotonic() - self._polled_at > self._lease_s:
            return "cancel"
        return self.request

    def poll(self, after_seq: int, wait_s: float) -> Report:
        with self.changed:
            self._polled_at = time.monotonic()
            self._events = [event for event in self._events if event.seq > after_seq]
            self._checkpoints = {seq: files for seq, files in self._checkpoints.items() if seq > after_seq}
            self.changed.wait_for(lambda: self._events, wait_s)
            self._polled_at = time.monotonic()
            return Report(tuple(self._events), dict(self._checkpoints))


class TrainingWorker:
    """The actor. Attempts are named by id in every call, so that a call for another one is refused and not obeyed."""

    def __init__(self, threads: int, lease_s: float) -> None:
        self._threads = threads
        self._lease_s = lease_s
        self._device = "cpu"
        self._run: _Run | None = None
        self._datasets: dict[str, ImageDataset] = {}
        self._lock = threading.Lock()

    def prepare(self) -> WorkerState:
        """Load torch and take one step of a small network, so that the first attempt need not."""
        import torch

        torch.set_num_threads(self._threads)
        if ray.get_gpu_ids() and torch.cuda.is_available():
            self._device = "cuda:0"
        from worker.warmup import warm_up

        warm_up(self._device)
        return self.describe()

    def describe(self) -> WorkerState:
        """Where this worker is and what it does."""
        run = self._run
        return WorkerState(
            node=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            attempt_id=run.attempt_id if run else None,
            finished=run is None or run.finished,
        )

    def start(
        self, attempt_id: str, spec: dict[str, Any], dataset: ImageDataset, checkpoint: Mapping[str, bytes] | None
    ) -> None:
        """Begin an attempt, from the files of a checkpoint if there are any. Raises `RuntimeError` while one runs."""
        with self._lock:
            if self._run is not None and self._run.attempt_id == attempt_id:
                return
            if self._run is not None and not self._run.finished:
                raise RuntimeError(f"attempt {self._run.attempt_id} is still running on this worker")
            run = self._run = _Run(attempt_id, self._lease_s)
        # The first copy of a dataset serves every later attempt: what is already on the GPU stays there.
        arguments = (run, spec, self._datasets.setdefault(dataset.name, dataset), checkpoint)
        threading.Thread(target=self._train, args=arguments, name=attempt_id, daemon=True).start()

    def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        """What the attempt reported after `after_seq`, as soon as there is something or `wait_s` have passed.

        What came up to `after_seq` is acknowledged by this and forgotten; the lease is renewed. Raises `LookupError`
        for another attempt than the one this worker has.
        """
        return self._current(attempt_id).poll(after_seq, wait_s)

    def request(self, attempt_id: str, request: Request) -> None:
        """Ask the attempt to pause or to cancel. A cancellation is not taken back."""
        run = self._current(attempt_id)
        if run.request != "cancel":
            run.request = request

    def _current(self, attempt_id: str) -> _Run:
        run = self._run
        if run is None or run.attempt_id != attempt_id:
            raise LookupError(f"this worker does not have attempt {attempt_id}")
        return run

    def _train(self, run: _Run, spec: dict[str, Any], dataset: ImageDataset, files: Mapping[str, bytes] | None) -> None:
        import torch

        from worker.checkpoint import Checkpoint
        from worker.training import explain, train

        try:
            # A thread's own setting: the one of the thread that prepared the worker does not reach this one.
            torch.set_num_threads(self._threads)
            train(
                TrainingSpec.model_validate(spec),
                dataset,
                device=self._device,
                report=run.report,
                save=run.save,
                control=run.control,
                resume=Checkpoint.from_files(files) if files else None,
            )
        except Exception as error:
            run.report(Finished(outcome="failed", failure=explain(error, None)))
