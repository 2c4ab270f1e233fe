"""The training process from within: one thread receives messages, the main thread trains.

`python -m worker.process` runs it. The process ends when the other end of its connection is closed.
"""

import gc
import os
import queue
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import torch

from worker.checkpoints.checkpoint import Checkpoint
from worker.data import mapped_files
from worker.data.datasets import ImageDataset
from worker.distributed.process_group import SINGLE_WORKER, ProcessGroup, join
from worker.distributed.rank import RankInfo
from worker.evaluation_spec import EvaluationSpec
from worker.events import CheckpointTaken, Evaluated, Event, Failure, Finished, Log, StopRequest
from worker.numerics.gpus import gpu_problem
from worker.numerics.precision import has_bfloat16
from worker.process.messages import (
    Compare,
    Compared,
    Configure,
    Ending,
    Evaluate,
    EvaluationEnded,
    LeaseRenewed,
    Listening,
    Ping,
    Pong,
    Ready,
    RenewLease,
    Reported,
    Start,
    Stop,
)
from worker.process.usage import UsageMeter
from worker.process.warmup import warm_up
from worker.spec import TrainingSpec
from worker.training.comparison import step_seconds
from worker.training.failures import DeviceLost, failure_of, first_line
from worker.training.loop import train
from worker.training.predictions import evaluate_checkpoint
from worker.training.step_cache import StepCache

KEPT_STEPS = 0.1
"""Fraction of the memory of a GPU in which captured steps are kept for later attempts."""


class Child:
    """Trains the attempts that arrive over a connection, one after another."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()
        self._tasks: queue.SimpleQueue[Start | Compare | Evaluate] = queue.SimpleQueue()
        self._compared: dict[Compare, Compared] = {}
        self._attempt_id = ""
        self._request: StopRequest | None = None
        self._lease_renewed_at = 0.0
        self._dataset: tuple[Path | str, ImageDataset] | None = None
        self._steps: StepCache | None = None

    def run(self) -> None:
        """Train every attempt that arrives; the process exits when the connection is closed."""
        configuration: Configure = self._connection.recv()
        self._lease_s = configuration.lease_s
        torch.set_num_threads(configuration.threads)
        try:
            self._prepare(configuration.gpu_share)
        except Exception as error:
            traceback.print_exc()
            self._end(f"{type(error).__name__}: {first_line(error)}")
        threading.Thread(target=self._receive, daemon=True).start()
        self._send(Ready(self._device, has_bfloat16(torch.device(self._device))))
        while True:
            match self._tasks.get():
                case Start() as start:
                    self._train(start)
                case Compare() as compare:
                    self._compare(compare)
                case Evaluate() as evaluate:
                    self._evaluate(evaluate)

    def _prepare(self, gpu_share: float) -> None:
        """Choose the device and warm it up."""
        self._device = "cuda:0" if gpu_share else "cpu"
        if gpu_share:
            if problem := gpu_problem():
                self._end(f"it was given a GPU that it cannot use: {problem}")
            if gpu_share < 1:
                torch.cuda.set_per_process_memory_fraction(gpu_share, self._device)
            memory = torch.cuda.get_device_properties(self._device).total_memory
            self._steps = StepCache(int(memory * min(gpu_share, 1) * KEPT_STEPS))
        warm_up(self._device)

    def _end(self, reason: str) -> NoReturn:
        """End the process, and tell the actor why."""
        self._send(Ending(reason))
        os._exit(1)

    def _receive(self) -> None:
        try:
            while True:
                match self._connection.recv():
                    case Start() as start:
                        self._attempt_id, self._request = start.attempt_id, None
                        self._lease_renewed_at = time.monotonic()
                        self._tasks.put(start)
                    case (Compare() | Evaluate()) as task:
                        self._tasks.put(task)
                    case Stop(attempt_id, request) if attempt_id == self._attempt_id and self._request != "cancel":
                        self._request = request
                    case RenewLease():
                        self._lease_renewed_at = time.monotonic()
                        self._send(LeaseRenewed())
                    case Ping():
                        self._send(Pong())
        except (EOFError, OSError):
            os._exit(0)

    def _send(
        self, message: Ready | Compared | EvaluationEnded | Reported | Listening | LeaseRenewed | Pong | Ending
    ) -> None:
        try:
            with self._send_lock:
                self._connection.send(message)
        except OSError:
            # The actor is gone: a training that continued would take resources from its successor.
            os._exit(0)

    def _control(self) -> StopRequest | None:
        if self._request is None and time.monotonic() - self._lease_renewed_at > self._lease_s:
            return "pause"
        return self._request

    def _compare(self, compare: Compare) -> None:
        if compare not in self._compared:
            self._compared[compare] = Compared(step_seconds(compare.model, compare.batch_size))
        self._send(self._compared[compare])

    def _evaluate(self, evaluate: Evaluate) -> None:
        try:
            result: Evaluated | Failure = evaluate_checkpoint(
                Checkpoint.from_files(evaluate.checkpoint),
                self._load(evaluate.dataset),
                EvaluationSpec.model_validate(evaluate.asked),
                torch.device(self._device),
            )
        except DeviceLost as error:
            self._end(str(error))
        except Exception as error:
            result = failure_of(error, None)
        if self._device != "cpu":
            torch.cuda.empty_cache()
        self._send(EvaluationEnded(result))

    def _train(self, start: Start) -> None:
        meter = UsageMeter(self._device)

        def report(event: Event) -> None:
            self._send(Reported(start.attempt_id, meter.complete(event), None))

        def save(event: CheckpointTaken, checkpoint: Checkpoint) -> None:
            self._send(Reported(start.attempt_id, event, checkpoint.files))

        group: ProcessGroup = SINGLE_WORKER
        try:
            if start.rank_info is not None:
                group = self._join(start.attempt_id, start.rank_info)
            finished = train(
                TrainingSpec.model_validate(start.spec),
                self._load(start.dataset),
                device=self._device,
                report=report,
                save=save,
                control=self._control,
                resume=Checkpoint.from_files(start.checkpoint) if start.checkpoint else None,
                initial=Checkpoint.from_files(start.initial) if start.initial else None,
                group=group,
                precision=start.precision,
                steps=self._steps,
            )
        except DeviceLost as error:
            # A process whose context of CUDA is broken cannot train again: its worker is replaced.
            report(Log(level="error", message="".join(traceback.format_exception(error))))
            self._end(str(error))
        except Exception as error:
            finished = Finished(outcome="failed", failure=failure_of(error, None))
            report(finished)
        finally:
            group.close()
        if self._device != "cpu":
            self._free_memory(finished)

    def _free_memory(self, finished: Finished) -> None:
        """Return the memory of an attempt to the GPU, which other processes may share."""
        if finished.failure is not None:
            gc.collect()  # the frames of an error refer to each other
            if finished.failure.code == "out_of_memory" and self._steps is not None:
                self._steps.clear()
        torch.cuda.empty_cache()

    def _join(self, attempt_id: str, rank_info: RankInfo) -> ProcessGroup:
        return join(
            rank_info,
            attempt_id,
            torch.device(self._device),
            on_listening=lambda address: self._send(Listening(attempt_id, address)),
            cancelled=lambda: self._control() == "cancel",
        )

    def _load(self, dataset: Path | ImageDataset) -> ImageDataset:
        """Return the dataset; the object of the previous attempt if it is the same, whose copy on the GPU remains."""
        key = dataset if isinstance(dataset, Path) else dataset.name
        if self._dataset is None or self._dataset[0] != key:
            self._dataset = (key, mapped_files.read(dataset) if isinstance(dataset, Path) else dataset)
        return self._dataset[1]
