"""One training attempt: `train` runs the epochs, their steps and evaluations, and takes the checkpoints.

A rerun computes the same values: random numbers depend on (seed, epoch), the learning rate depends on (spec, step), and
rows of metrics are reported at steps that follow from the spec. On a CPU the results are bit-identical for a given
number of threads.
"""

import math
import time
from collections.abc import Callable
from itertools import islice

import torch

from worker.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointNotWritten,
    Position,
    Window,
    begin_with,
    capture,
    restore,
)
from worker.data.batches import TrainingData
from worker.data.datasets import ImageDataset
from worker.distributed.process_group import SINGLE_WORKER, ProcessGroup
from worker.events import (
    CheckpointTaken,
    Event,
    Finished,
    Log,
    Metrics,
    Outcome,
    Precision,
    Progress,
    Started,
    StopRequest,
)
from worker.metrics import (
    EVALUATIONS,
    IMAGES_PER_S,
    LEARNING_RATE,
    TRAIN_ERROR,
    TRAIN_LOSS,
)
from worker.numerics.precision import choose_precision, numeric_settings
from worker.spec import TrainingSpec
from worker.training import cadence, telemetry
from worker.training.environment import device_name, versions
from worker.training.evaluation import EvaluationStep, evaluate
from worker.training.failures import Diverged, failure_of, first_line, responds
from worker.training.optimization import learning_rate
from worker.training.static_step import StaticStep
from worker.training.step_cache import StepCache
from worker.training.throughput import Throughput

Report = Callable[[Event], None]
Save = Callable[[CheckpointTaken, Checkpoint], None]
Control = Callable[[], StopRequest | None]

PROGRESS_INTERVAL_S = 1.0


class Paused(Exception):
    """The attempt was asked to pause: take a checkpoint and stop."""


class Cancelled(Exception):
    """The attempt was asked to cancel: stop without a checkpoint."""


def train(
    spec: TrainingSpec,
    dataset: ImageDataset,
    *,
    device: torch.device | str = "cpu",
    report: Report,
    save: Save,
    control: Control = lambda: None,
    resume: Checkpoint | None = None,
    initial: Checkpoint | None = None,
    group: ProcessGroup = SINGLE_WORKER,
    precision: Precision | None = None,
    steps: StepCache | None = None,
) -> Finished:
    """Train until the end of the last epoch, a stop request or a failure.

    The workers of a `group` take every step together, and a stop request to one worker stops all of them. Rank 0
    reports and saves; the other ranks report their `Finished` event only.

    Args:
        spec: What to train.
        dataset: The dataset that the spec names.
        device: Device to train on.
        report: Called with every event in order, except `CheckpointTaken`. The events are not numbered.
        save: Called with every `CheckpointTaken` event and its checkpoint.
        control: Called before every step and every batch of an evaluation; returns the stop request, if there is one. A
            cancellation takes effect at once. A pause takes effect before the next step and takes a checkpoint.
        resume: Checkpoint to continue from.
        initial: The checkpoint that `spec.init_from` names; not used if `resume` is given.
        group: The process group of the job.
        precision: What "auto" was resolved to for this training; None: it is resolved here, unless `resume` has it.
        steps: Steps of earlier trainings, which a training of the same kind uses again.

    Returns:
        The last event, which is reported too. Errors of the training are reported in it and not raised; errors of
        `report` are raised.

    Raises:
        DeviceLost: If the process cannot use the GPU any more. No `Finished` event is reported.
    """
    training: Training | None = None
    device = torch.device(device)
    try:
        with numeric_settings(spec, device):
            training = Training(spec, dataset, device, report, save, control, resume, initial, group, precision, steps)
            finished = Finished(outcome=training.run())
    except Exception as error:
        step = training.step if training else None
        finished = Finished(outcome="failed", failure=failure_of(error, step, device, group))
    report(finished)
    return finished


class Training:
    """The state of a training attempt on one worker; `train` describes the arguments."""

    def __init__(
        self,
        spec: TrainingSpec,
        dataset: ImageDataset,
        device: torch.device,
        report: Report,
        save: Save,
        control: Control,
        resume: Checkpoint | None,
        initial: Checkpoint | None,
        group: ProcessGroup,
        precision: Precision | None,
        steps: StepCache | None,
    ) -> None:
        assert group.world_size == spec.num_workers, f"num_workers is {spec.num_workers}, not {group.world_size}"
        self.spec, self.device, self.save, self.control, self.group = spec, device, save, control, group
        self.report = report if group.is_rank_zero else lambda _: None  # only rank 0 reports
        self.precision = choose_precision(spec, device, (resume.precision if resume else None) or precision)
        self.data = TrainingData(spec, dataset, device=device, rank=group.rank, num_workers=group.world_size)
        # A step of a group communicates: it is not captured, and the group ends with the job.
        self.steps = steps if steps is not None and group is SINGLE_WORKER else StepCache(0)
        self.static_step = self.steps.take(spec, device, self.precision)
        self.model, optimizer = self.static_step.model, self.static_step.optimizer
        self.state = self.model, optimizer, self.static_step.average
        self.position = restore(resume, spec, *self.state, rank=group.rank) if resume else Position()
        if spec.init_from is not None and resume is None:
            begin_with(initial, spec.init_from, self.model, self.static_step.average)
        group.prepare(self.model, optimizer.gradients, optimizer.gradient_views)
        self.static_step.group = group
        self.resumed_from_step = self.step
        self.checkpoint_step = self.step if resume else None
        self.checkpoint_time = time.monotonic()
        self.progress_time = -math.inf
        self.latest_loss: float | None = None
        self.row_throughput, self.progress_throughput = Throughput(), Throughput()

    @property
    def step(self) -> int:
        """Completed optimizer steps, including those of earlier attempts."""
        return self.position.epoch * self.spec.steps_per_epoch + self.position.step_in_epoch

    def run(self) -> Outcome:
        """Train from the current position to the end of the last epoch."""
        self.report_start()
        self.capture(self.static_step)
        try:
            while self.position.epoch < self.spec.epochs:
                self.train_epoch()
                self.evaluate()
                self.position.epoch, self.position.step_in_epoch = self.position.epoch + 1, 0
                if cadence.is_epoch_checkpoint_due(self.spec, self.position.epoch) or self.is_timed_checkpoint_due():
                    self.checkpoint()
        except Paused:
            self.checkpoint()
            outcome: Outcome = "paused"
        except Cancelled:
            outcome = "cancelled"
        else:
            outcome = "succeeded"
        self.steps.keep(self.spec, self.static_step)
        return outcome

    def train_epoch(self) -> None:
        """Take the remaining steps of the current epoch."""
        spec, position = self.spec, self.position
        self.model.train()
        started = time.perf_counter()
        batches = self.data.epoch_batches(position.epoch + 1, position.step_in_epoch)
        # Chunks grow, so that the first step does not wait for a full one.
        count = 1
        while chunk := list(islice(batches, count)):
            rates = [learning_rate(spec, step) for step in range(self.step, self.step + len(chunk))]
            self.static_step.fill(chunk, rates)
            count = min(2 * count, self.static_step.num_slots)
            for rate, (_, labels) in zip(rates, chunk, strict=True):
                progress_due, checkpoint_due = self.check_requests()
                self.static_step.run()
                position.step_in_epoch += 1

                row_due = cadence.is_train_row_due(spec, position.step_in_epoch)
                checkpoint_due = checkpoint_due and position.step_in_epoch < spec.steps_per_epoch
                if row_due or progress_due or checkpoint_due:
                    self.read_losses()
                now = time.perf_counter()
                self.row_throughput.add(self.group.world_size * len(labels), now - started)
                self.progress_throughput.add(self.group.world_size * len(labels), now - started)
                if progress_due:
                    self.report_progress()
                if row_due:
                    self.report_train_row(rate)
                if checkpoint_due:
                    self.checkpoint()
                started = time.perf_counter()
            self.read_losses()

    def capture(self, step: StaticStep | EvaluationStep) -> None:
        """Capture a step as a CUDA graph; if that fails, log it once, and its kernels run one at a time."""
        if not step.is_capturable or self.group is not SINGLE_WORKER:
            return
        try:
            step.capture()
        except RuntimeError as error:
            if not responds(self.device):
                raise
            what = "the step" if step is self.static_step else "the evaluation"
            message = f"no CUDA graph of {what}, so that it takes longer: {first_line(error)}"
            self.report(Log(level="warning", message=message))

    def read_losses(self) -> None:
        """Add this worker's losses and errors of the steps since the last call to the window.

        Raises:
            Diverged: If a loss is not finite.
        """
        results = self.static_step.results()
        window = self.position.window
        for step, (count, loss, wrong) in enumerate(results, self.step - len(results) + 1):
            if not math.isfinite(loss):
                raise Diverged(step, f"the loss is {loss}")
            self.latest_loss = loss
            window.images += count
            window.loss += loss * count
            window.errors += wrong

    def evaluate(self) -> None:
        """Evaluate the model at the end of an epoch; report the metrics, and the telemetry if it is due.

        Raises:
            Diverged: If a loss is not finite.
        """
        started = time.perf_counter()
        self.capture(self.static_step.evaluation)
        values: dict[str, float] = {}
        with self.static_step.evaluated_weights():
            for split in self.data.splits:
                evaluation = evaluate(
                    self.model,
                    self.data,
                    split=split,
                    precision=self.precision,
                    before_batch=self.check_cancellation,
                    group=self.group,
                    step=self.static_step.evaluation,
                )
                if not math.isfinite(evaluation.loss):
                    raise Diverged(self.step, f"the loss in evaluation is {evaluation.loss}")
                loss, error = EVALUATIONS[split]
                values |= {loss.name: evaluation.loss, error.name: evaluation.error}
        speed = self.spec.dataset.num_eval / max(time.perf_counter() - started, 1e-9)
        self.position.metrics = values
        epoch = self.position.epoch + 1
        self.report(Metrics(kind="eval", epoch=epoch, step=self.step, values=values, eval_images_per_s=speed))
        if cadence.is_telemetry_due(self.spec, epoch) and self.group.is_rank_zero:
            values = telemetry.measure(self.static_step, self.spec, self.data, self.step)
            self.report(Metrics(kind="telemetry", epoch=epoch, step=self.step, values=values))

    def checkpoint(self) -> None:
        """Take a checkpoint, unless one was taken at this step.

        Raises:
            Diverged: If a loss or a weight is not finite.
            CheckpointNotWritten: If it could not be saved.
        """
        self.read_losses()
        self.checkpoint_time = time.monotonic()
        if self.checkpoint_step == self.step:
            return
        own, *self.position.other_windows = self.windows()
        if not self.group.is_rank_zero:
            self.checkpoint_step = self.step
            return
        self.position.window = own
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.model.state_dict().values()):
            raise Diverged(self.step, "a weight is not finite")
        checkpoint = capture(self.spec, *self.state, self.position, versions(self.device), self.precision)
        try:
            self.save(checkpoint.event, checkpoint)
        except OSError as error:
            raise CheckpointNotWritten(
                f"the checkpoint at step {self.step} could not be written ({error}): free disk space, or check the disk"
            ) from error
        self.checkpoint_step = self.step

    def windows(self) -> list[Window]:
        """Return the windows of all ranks, in their order; a collective."""
        window = self.position.window
        gathered = self.group.gather([window.images, window.loss, window.errors])
        return [Window(int(images), loss, int(errors)) for images, loss, errors in gathered]

    def check_requests(self) -> tuple[bool, bool]:
        """Return whether progress and whether a timed checkpoint is due; a collective.

        Raises:
            Cancelled: If any worker was asked to cancel.
            Paused: If any worker was asked to pause.
        """
        request = self.control()
        cancel, pause, progress_due, checkpoint_due = self.group.any_rank(
            request == "cancel", request == "pause", self.is_progress_time(), self.is_checkpoint_time()
        )
        if cancel:
            raise Cancelled
        if pause:
            raise Paused
        return progress_due, checkpoint_due

    def check_cancellation(self) -> None:
        """Raise `Cancelled` if any worker was asked to cancel; a collective.

        A pause waits for the end of the evaluation, so that no checkpoint is taken between an epoch and its evaluation.
        """
        (cancel,) = self.group.any_rank(self.control() == "cancel")
        if cancel:
            raise Cancelled

    def is_timed_checkpoint_due(self) -> bool:
        """Return whether `checkpoint.every_s` has passed on rank 0; a collective."""
        (due,) = self.group.any_rank(self.is_checkpoint_time())
        return due

    def is_checkpoint_time(self) -> bool:
        """Return whether `checkpoint.every_s` has passed; False on other ranks than 0."""
        every_s = self.spec.checkpoint.every_s
        return every_s is not None and self.group.is_rank_zero and time.monotonic() - self.checkpoint_time >= every_s

    def is_progress_time(self) -> bool:
        """Return whether the interval between two reports of progress has passed; False on other ranks than 0."""
        return self.group.is_rank_zero and time.monotonic() - self.progress_time >= PROGRESS_INTERVAL_S

    def report_start(self) -> None:
        """Report the device, the precision and the size of the training."""
        self.report(
            Started(
                device=device_name(self.device),
                precision=self.precision,
                parameters=sum(parameter.numel() for parameter in self.model.parameters()),
                steps_per_epoch=self.spec.steps_per_epoch,
                total_steps=self.spec.total_steps,
                resumed_from_step=self.resumed_from_step,
                versions=versions(self.device),
            )
        )

    def report_progress(self) -> None:
        """Report the current position, throughput and loss."""
        self.progress_time = time.monotonic()
        self.report(
            Progress(
                epoch=self.position.epoch + 1,
                step=self.step,
                images_per_s=self.progress_throughput.read_and_reset(),
                train_loss=self.latest_loss,
            )
        )

    def report_train_row(self, rate: float) -> None:
        """Report the averages over all workers since the previous row, and reset the window; a collective."""
        windows = self.windows()
        images = sum(window.images for window in windows)
        values: dict[str, float] = {
            TRAIN_LOSS.name: sum(window.loss for window in windows) / images,
            TRAIN_ERROR.name: sum(window.errors for window in windows) / images,
            LEARNING_RATE.name: rate,
            IMAGES_PER_S.name: self.row_throughput.read_and_reset(),
        }
        self.position.window = Window()
        self.report(Metrics(kind="train", epoch=self.position.epoch + 1, step=self.step, values=values))
