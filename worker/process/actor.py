"""The training worker: an actor that hands one attempt after another to its training process, and keeps that warm.

It knows neither database nor artifact store. The dispatcher pulls: what is reported waits here until a poll
acknowledges it. An attempt that is not polled for its lease ends: by then its job may be somebody else's.
"""

import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from worker.data import mapped_files
from worker.data.datasets import ImageDataset
from worker.distributed.rank import Place
from worker.events import Event, Finished
from worker.process.training_process import (
    Ask,
    Listening,
    Prepare,
    Reported,
    Request,
    Start,
    TrainingProcess,
    TrainingProcessGone,
)

__all__ = ["CONCURRENT_CALLS", "Report", "Request", "TrainingProcessGone", "TrainingWorker", "WorkerState"]

CONCURRENT_CALLS = 8
"""Calls an actor answers at once: a poll waits, and the others must get through meanwhile."""


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
    """One attempt, and what it has reported so far."""

    def __init__(self, attempt_id: str) -> None:
        self.attempt_id = attempt_id
        self.changed = threading.Condition()
        self.finished = False
        self.address: str | None = None
        self._last_seq = 0
        self._events: list[Event] = []
        self._checkpoints: dict[int, Any] = {}

    def report(self, reported: Reported) -> None:
        files = None if reported.files is None else ray.put(reported.files)
        with self.changed:
            self._last_seq += 1
            self._events.append(reported.event.model_copy(update={"seq": self._last_seq}))
            if files is not None:
                self._checkpoints[self._last_seq] = files
            self.finished = isinstance(reported.event, Finished)
            self.changed.notify_all()

    def listen(self, address: str) -> None:
        with self.changed:
            self.address = address
            self.changed.notify_all()

    def wait_for_address(self, process: TrainingProcess, wait_s: float) -> str | None:
        with self.changed:
            self.changed.wait_for(lambda: self.address or self.finished or process.gone, wait_s)
            if not self.address:
                process.check()
            return self.address

    def poll(self, process: TrainingProcess, after_seq: int, wait_s: float) -> Report:
        with self.changed:
            self._events = [event for event in self._events if event.seq > after_seq]
            self._checkpoints = {seq: files for seq, files in self._checkpoints.items() if seq > after_seq}
            self.changed.wait_for(lambda: self._events or process.gone, wait_s)
            # What an attempt reported before its process ended still counts.
            if not self._events:
                process.check()
            return Report(tuple(self._events), dict(self._checkpoints))


class TrainingWorker:
    """The actor. Attempts are named by id in every call, so that a call for another one is refused and not obeyed."""

    def __init__(self, threads: int, lease_s: float, rendezvous_timeout_s: float) -> None:
        self._rendezvous_timeout_s = rendezvous_timeout_s
        self._prepare = Prepare(threads, lease_s, gpu=bool(ray.get_gpu_ids()))
        self._process: TrainingProcess | None = None
        self._run: _Run | None = None
        self._datasets: dict[str, Path | ImageDataset] = {}
        self._lock = threading.Lock()

    def prepare(self) -> WorkerState:
        """Start the training process and wait until it is warm. Raises `TrainingProcessGone`."""
        with self._lock:
            if self._process is None:
                self._process = TrainingProcess(self._prepare, self._on_report, self._on_end)
        self._process.wait_ready()
        return self.describe()

    def describe(self) -> WorkerState:
        """Where this worker is and what it does. Raises `TrainingProcessGone`."""
        run, process = self._run, self._ready()
        process.check()
        return WorkerState(
            node=socket.gethostname(),
            pid=process.pid,
            device=process.device,
            attempt_id=run.attempt_id if run else None,
            finished=run is None or run.finished,
        )

    def receive(self, dataset: ImageDataset) -> None:
        """Have the images here, so that a start need not wait for them."""
        with self._lock:
            self._share(dataset)

    def start(
        self,
        attempt_id: str,
        spec: dict[str, Any],
        dataset: ImageDataset,
        checkpoint: Mapping[str, bytes] | None,
        rank: int = 0,
        address: str | None = None,
    ) -> None:
        """Begin an attempt, from the files of a checkpoint if there are any.

        Of several workers the one of `rank` 0 starts first, and the others where it listens: at `address`. Raises
        `RuntimeError` while one runs, `TrainingProcessGone` where nothing can.
        """
        with self._lock:
            if self._run is not None and self._run.attempt_id == attempt_id:
                return
            if self._run is not None and not self._run.finished:
                raise RuntimeError(f"attempt {self._run.attempt_id} is still running on this worker")
            process = self._ready()
            process.check()
            self._run = _Run(attempt_id)
            place = None
            if (size := spec["num_workers"]) > 1:
                host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
                place = Place(rank, size, host, self._rendezvous_timeout_s, address)
            process.start(Start(attempt_id, spec, self._share(dataset), checkpoint, place))

    def rendezvous(self, attempt_id: str, wait_s: float) -> str | None:
        """Where the first worker of an attempt listens for the others; None where it does not within `wait_s`.

        Raises `LookupError` and `TrainingProcessGone` as `poll` does.
        """
        return self._current(attempt_id).wait_for_address(self._ready(), wait_s)

    def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        """What the attempt reported after `after_seq`, as soon as there is something or `wait_s` have passed.

        What came up to `after_seq` is acknowledged by this and forgotten; the lease is renewed. Raises `LookupError`
        for another attempt than the one this worker has, `TrainingProcessGone` when its process is.
        """
        run, process = self._current(attempt_id), self._ready()
        if not process.gone:
            process.renew()
        return run.poll(process, after_seq, wait_s)

    def request(self, attempt_id: str, request: Request) -> None:
        """Ask the attempt to pause or to cancel. A cancellation is not taken back."""
        self._current(attempt_id)
        self._ready().ask(Ask(attempt_id, request))

    def _ready(self) -> TrainingProcess:
        if self._process is None:
            raise RuntimeError("this worker was not prepared")
        return self._process

    def _current(self, attempt_id: str) -> _Run:
        run = self._run
        if run is None or run.attempt_id != attempt_id:
            raise LookupError(f"this worker does not have attempt {attempt_id}")
        return run

    def _share(self, dataset: ImageDataset) -> Path | ImageDataset:
        if dataset.name not in self._datasets:
            try:
                self._datasets[dataset.name] = mapped_files.publish(dataset, mapped_files.folder_of_user())
            except OSError:
                # No room for the files: a copy of its own for this process.
                return dataset
        return self._datasets[dataset.name]

    def _on_report(self, reported: Reported | Listening) -> None:
        run = self._run
        if run is None or run.attempt_id != reported.attempt_id:
            return
        if isinstance(reported, Listening):
            run.listen(reported.address)
        else:
            run.report(reported)

    def _on_end(self) -> None:
        if (run := self._run) is not None:
            with run.changed:
                run.changed.notify_all()
