"""The training worker: a Ray actor that hands one attempt after another to its training process and keeps it warm.

It knows neither the database nor the artifact store. The dispatcher polls it; reports are kept until a poll
acknowledges them. An attempt that is not polled for the duration of its lease pauses, as its job may by then run
elsewhere. If it does not, it continues from the checkpoint of the pause.
"""

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from worker.architecture import ModelName
from worker.data import mapped_files
from worker.data.datasets import ImageDataset
from worker.distributed.rank import RankInfo
from worker.events import Evaluated, Event, Failure, Finished, Precision, StopRequest
from worker.process.messages import Compare, Configure, Evaluate, Listening, Reported, Start, Stop
from worker.process.process_ids import ProcessId, machine
from worker.process.training_process import TrainingProcess, TrainingProcessGone

__all__ = ["CONCURRENT_CALLS", "Report", "TrainingProcessGone", "TrainingWorker", "WorkerState"]

CONCURRENT_CALLS = 8
"""Calls that an actor runs at once: while a poll waits, others must be served."""


@dataclass(frozen=True)
class WorkerState:
    """The state of a worker.

    Attributes:
        node: Host name of its node.
        pid: Process id of the training process.
        device: Device that it trains on.
        attempt_id: The latest attempt; None before the first.
        finished: Whether the worker can start another attempt.
        bfloat16: Whether the device computes in bfloat16.
        ready: Whether the training process is warmed up; before that, its device is not known.
        processes: The processes of the worker.
        machine: The machine on which the ids of the processes are valid.
    """

    node: str
    pid: int
    device: str
    attempt_id: str | None
    finished: bool
    bfloat16: bool = False
    ready: bool = True
    processes: Sequence[ProcessId] = ()
    machine: str = ""


@dataclass(frozen=True)
class Report:
    """The answer to a poll.

    Attributes:
        events: The events in order.
        checkpoints: For each checkpoint among them, by `seq`, a Ray reference to its files.
    """

    events: Sequence[Event]
    checkpoints: Mapping[int, Any]


class _Attempt:
    """An attempt and its reports that are not yet acknowledged."""

    def __init__(self, attempt_id: str, rank_info: RankInfo | None) -> None:
        self.id = attempt_id
        self.rank_info = rank_info
        self.changed = threading.Condition()
        self.finished = False
        self.address: str | None = None
        self._last_seq = 0
        self._events: list[Event] = []
        self._checkpoints: dict[int, Any] = {}

    def add(self, reported: Reported) -> None:
        files = None if reported.files is None else ray.put(reported.files)
        with self.changed:
            self._last_seq += 1
            self._events.append(reported.event.model_copy(update={"seq": self._last_seq}))
            if files is not None:
                self._checkpoints[self._last_seq] = files
            self.finished = isinstance(reported.event, Finished)
            self.changed.notify_all()

    def set_address(self, address: str) -> None:
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
            # Reports from before the end of the process are still delivered.
            if not self._events:
                process.check()
            return Report(tuple(self._events), dict(self._checkpoints))


class TrainingWorker:
    """The actor. Every call names the attempt that it is about; a call about another attempt is refused.

    Args:
        threads: CPU threads to train with.
        lease_s: An attempt pauses, with a checkpoint, if it is not polled for this many seconds.
        rendezvous_timeout_s: Seconds that the workers of a job wait for each other.
    """

    def __init__(self, threads: int, lease_s: float, rendezvous_timeout_s: float) -> None:
        self._rendezvous_timeout_s = rendezvous_timeout_s
        share = ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
        self._configuration = Configure(threads, lease_s, gpu_share=share)
        self._process: TrainingProcess | None = None
        self._attempt: _Attempt | None = None
        self._datasets: dict[str, Path | ImageDataset] = {}
        self._lock = threading.Lock()
        self._evaluating = False

    def prepare(self) -> WorkerState:
        """Start the training process and wait until it is warmed up.

        Raises:
            TrainingProcessGone: If the process has ended.
        """
        with self._lock:
            if self._process is None:
                self._process = TrainingProcess(self._configuration, self._on_report, self._on_end)
        self._process.wait_ready()
        return self.describe()

    def describe(self) -> WorkerState:
        """Return the state of the worker.

        Raises:
            TrainingProcessGone: If the process has ended or does not respond.
        """
        attempt, process = self._attempt, self._process
        own = ProcessId.of(os.getpid())
        if process is None or not process.ready:
            return WorkerState(
                socket.gethostname(), own.pid, "", None, finished=True, ready=False, processes=(own,), machine=machine()
            )
        process.check()
        return WorkerState(
            node=socket.gethostname(),
            pid=process.pid,
            device=process.device,
            attempt_id=attempt.id if attempt else None,
            finished=(attempt is None or attempt.finished) and not self._evaluating,
            bfloat16=process.bfloat16,
            processes=(own, ProcessId.of(process.pid)),
            machine=machine(),
        )

    def ping(self, wait_s: int) -> None:
        """Return once the training process has answered.

        Raises:
            TrainingProcessGone: If it has ended, or does not answer within `wait_s` seconds.
        """
        self._prepared_process().ping(wait_s)

    def compare_precisions(self, model: ModelName, batch_size: int) -> Mapping[Precision, float]:
        """Return the seconds of a training step in each precision, measured once for each model and batch size.

        Raises:
            RuntimeError: If an attempt is running.
            TrainingProcessGone: If the process has ended or does not respond.
        """
        with self._lock:
            process = self._idle_process()
            return process.compare(Compare(model, batch_size)).seconds

    def evaluate(
        self, checkpoint: Mapping[str, bytes], dataset: ImageDataset, asked: dict[str, Any]
    ) -> Evaluated | Failure:
        """Evaluate a checkpoint.

        Args:
            checkpoint: Its files.
            dataset: The dataset of its training.
            asked: The `EvaluationSpec`, as JSON values.

        Raises:
            RuntimeError: If an attempt is running.
            TrainingProcessGone: If the process has ended or does not respond.
        """
        with self._lock:
            process = self._idle_process()
            self._evaluating = True
            try:
                return process.evaluate(Evaluate(checkpoint, self._publish(dataset), asked)).result
            finally:
                self._evaluating = False

    def receive(self, dataset: ImageDataset) -> None:
        """Store a dataset on this node, so that the start of an attempt does not wait for it."""
        with self._lock:
            self._publish(dataset)

    def start(
        self,
        attempt_id: str,
        spec: dict[str, Any],
        dataset: ImageDataset,
        checkpoint: Mapping[str, bytes] | None,
        rank: int = 0,
        address: str | None = None,
        precision: Precision | None = None,
        initial: Mapping[str, bytes] | None = None,
    ) -> None:
        """Start an attempt; do nothing if it is already started.

        Args:
            attempt_id: Id of the attempt.
            spec: The spec, as JSON values.
            dataset: The dataset that the spec names.
            checkpoint: Files of the checkpoint to resume from.
            rank: Rank of this worker in the job. Rank 0 is started first.
            address: Address at which rank 0 listens, as `rendezvous` of that worker returned it; None on rank 0.
            precision: What the precision "auto" was resolved to.
            initial: Files of the checkpoint that `init_from` names, unless `checkpoint` is given.

        Raises:
            RuntimeError: If another attempt is running.
            TrainingProcessGone: If the process has ended or does not respond.
        """
        with self._lock:
            if self._attempt is not None and self._attempt.id == attempt_id:
                return
            process = self._idle_process()
            rank_info = None
            if (world_size := spec["num_workers"]) > 1:
                host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
                rank_info = RankInfo(rank, world_size, host, self._rendezvous_timeout_s, address)
            self._attempt = _Attempt(attempt_id, rank_info)
            published = self._publish(dataset)
            process.start(Start(attempt_id, spec, published, checkpoint, rank_info, precision, initial))

    def rendezvous(self, attempt_id: str, wait_s: float) -> str | None:
        """Return the host:port at which rank 0 of an attempt listens; None if it does not listen within `wait_s`.

        Raises:
            LookupError: If this worker has another attempt.
            TrainingProcessGone: If the process has ended or does not respond.
        """
        return self._current(attempt_id).wait_for_address(self._prepared_process(), wait_s)

    def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        """Return the reports of an attempt after `after_seq`, as soon as there are any or after `wait_s`.

        A poll acknowledges the reports up to `after_seq`, which are then dropped, and renews the lease.

        Raises:
            LookupError: If this worker has another attempt.
            TrainingProcessGone: If the process has ended or does not respond, and all reports were acknowledged.
        """
        attempt, process = self._current(attempt_id), self._prepared_process()
        if not process.gone:
            process.renew_lease()
        return attempt.poll(process, after_seq, wait_s)

    def request(self, attempt_id: str, request: StopRequest) -> None:
        """Ask an attempt to pause or to cancel. A pause does not replace a cancellation.

        Raises:
            LookupError: If this worker has another attempt.
            TrainingProcessGone: If the process has ended.
        """
        self._current(attempt_id)
        self._prepared_process().stop(Stop(attempt_id, request))

    def _idle_process(self) -> TrainingProcess:
        if self._attempt is not None and not self._attempt.finished:
            raise RuntimeError(f"attempt {self._attempt.id} is still running on this worker")
        process = self._prepared_process()
        process.check()
        return process

    def _prepared_process(self) -> TrainingProcess:
        if self._process is None:
            raise RuntimeError("this worker is not prepared: call prepare first")
        return self._process

    def _current(self, attempt_id: str) -> _Attempt:
        attempt = self._attempt
        if attempt is None or attempt.id != attempt_id:
            raise LookupError(f"this worker does not have attempt {attempt_id}")
        return attempt

    def _publish(self, dataset: ImageDataset) -> Path | ImageDataset:
        if dataset.name not in self._datasets:
            try:
                self._datasets[dataset.name] = mapped_files.publish(dataset, mapped_files.user_folder())
            except OSError:
                # Without disk space for the files, the process gets a copy of its own.
                return dataset
        return self._datasets[dataset.name]

    def _on_report(self, reported: Reported | Listening) -> None:
        attempt = self._attempt
        if attempt is None or attempt.id != reported.attempt_id:
            return
        if isinstance(reported, Listening):
            attempt.set_address(reported.address)
        else:
            attempt.add(reported)

    def _on_end(self) -> None:
        if (attempt := self._attempt) is not None:
            process = self._prepared_process()
            if attempt.rank_info is not None and process.device != "cpu" and process.aborted and not attempt.finished:
                attempt.add(Reported(attempt.id, _ended_by_nccl(attempt.rank_info), None))
            with attempt.changed:
                attempt.changed.notify_all()


def _ended_by_nccl(rank_info: RankInfo) -> Finished:
    """What a process would report that NCCL's watchdog has ended."""
    message = (
        f"rank {rank_info.rank} of {rank_info.world_size} lost the other workers: its training process was ended by "
        "SIGABRT, as NCCL does when another worker does not answer"
    )
    return Finished(outcome="failed", failure=Failure(code="peer", message=message, may_pass=True))
