"""One training attempt, to be read from top to bottom: `train`, the epochs, a step, an evaluation, a checkpoint.

A rerun computes the same: everything random comes from (seed, epoch), the learning rate from (spec, step), and rows of
metrics stand at steps that follow from the spec. On a CPU that holds bit for bit at the same number of threads.
"""

import math
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from platform import python_version
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from worker.checkpoints.checkpoint import Checkpoint, CheckpointNotWritten, Position, Window, capture, restore
from worker.data.batches import TrainingData
from worker.data.datasets import ImageDataset
from worker.distributed.process_group import ALONE, ProcessGroup
from worker.events import CheckpointTaken, Event, Finished, Metrics, Outcome, Progress, Started
from worker.metrics import (
    HOLDOUT_ERROR,
    HOLDOUT_LOSS,
    IMAGES_PER_S,
    LEARNING_RATE,
    TEST_ERROR,
    TEST_LOSS,
    TRAIN_ERROR,
    TRAIN_LOSS,
)
from worker.models import build_model
from worker.spec import TrainingSpec
from worker.training import layer_telemetry
from worker.training.evaluation import evaluate
from worker.training.failures import Diverged, explain
from worker.training.optimization import build_optimizer, learning_rate
from worker.training.precision import autocast, choose_precision, numerics

Request = Literal["pause", "cancel"]
Report = Callable[[Event], None]
Save = Callable[[CheckpointTaken, Checkpoint], None]
Control = Callable[[], Request | None]

TRAIN_ROWS_PER_EPOCH = 10
PROGRESS_INTERVAL_S = 1.0
# Reading a loss makes the CPU wait for the GPU; one wait for so many steps keeps the GPU busy.
GPU_STEPS_UNREAD = 16


class Paused(Exception):
    """Stop, and keep everything."""


class Cancelled(Exception):
    """Stop, and keep nothing."""


def train(
    spec: TrainingSpec,
    dataset: ImageDataset,
    *,
    device: torch.device | str = "cpu",
    report: Report,
    save: Save,
    control: Control = lambda: None,
    resume: Checkpoint | None = None,
    group: ProcessGroup = ALONE,
) -> Finished:
    """Trains until the last epoch, a request or a failure; returns the last event, which is reported too.

    Every event goes to `report` in its order, unnumbered, but a CheckpointTaken, which goes to `save` with its bytes.
    `control` is asked before every step and every batch of an evaluation: a cancellation takes effect at once, a pause
    before the next step and with a checkpoint. An error of the training is reported and does not leave this function;
    an error of `report` may.

    Several workers train one model as a `group`: they take every step together, and what is asked of one is asked of
    all. The first one reports and saves, the others report only how they ended.
    """
    training: Training | None = None
    try:
        with numerics(spec, torch.device(device)):
            training = Training(spec, dataset, torch.device(device), report, save, control, resume, group)
            finished = Finished(outcome=training.run())
    except Exception as error:
        finished = Finished(outcome="failed", failure=explain(error, training.step if training else None))
    report(finished)
    return finished


class Training:
    """A training at work."""

    def __init__(
        self,
        spec: TrainingSpec,
        dataset: ImageDataset,
        device: torch.device,
        report: Report,
        save: Save,
        control: Control,
        resume: Checkpoint | None,
        group: ProcessGroup,
    ) -> None:
        assert group.size == spec.num_workers, f"{group.size} workers train a job of {spec.num_workers}"
        self.spec, self.device, self.save, self.control, self.group = spec, device, save, control, group
        self.report = report if group.leads else unheard
        self.precision = choose_precision(spec, device)
        self.data = TrainingData(spec, dataset, device=device, rank=group.rank, num_workers=group.size)
        self.model = build_model(spec.model, spec.normalization, seed=spec.seed).to(device)
        self.optimizer = build_optimizer(spec, self.model)
        self.position = restore(resume, spec, self.model, self.optimizer, group.rank) if resume else Position()
        group.prepare(self.model)
        self.resumed_from_step = self.step
        self.checkpoint_step = self.step if resume else None
        self.checkpoint_time = time.monotonic()
        self.progress_time = -math.inf
        self.unread: list[tuple[int, Tensor, Tensor]] = []
        self.latest_loss: float | None = None
        self.row_speed, self.progress_speed = Speed(), Speed()

    @property
    def step(self) -> int:
        """Optimizer steps completed, those of earlier attempts included."""
        return self.position.epoch * self.spec.steps_per_epoch + self.position.step_in_epoch

    def run(self) -> Outcome:
        """Trains from where it stands to the end of the last epoch."""
        self.report_start()
        try:
            while self.position.epoch < self.spec.epochs:
                self.train_epoch()
                self.evaluate()
                self.position.epoch, self.position.step_in_epoch = self.position.epoch + 1, 0
                if self.epoch_checkpoint_due() or self.agreed_checkpoint_due():
                    self.checkpoint()
        except Paused:
            self.checkpoint()
            return "paused"
        except Cancelled:
            return "cancelled"
        return "succeeded"

    def train_epoch(self) -> None:
        """The steps that are left of an epoch."""
        spec, position = self.spec, self.position
        self.model.train()
        started = time.perf_counter()
        for images, labels in self.data.epoch_batches(position.epoch + 1, position.step_in_epoch):
            progress_due, checkpoint_due = self.obey()
            rate = learning_rate(spec, self.step)
            self.take_step(images, labels, rate)
            position.step_in_epoch += 1

            row_due = self.train_row_due()
            checkpoint_due = checkpoint_due and position.step_in_epoch < spec.steps_per_epoch
            if row_due or progress_due or checkpoint_due or len(self.unread) >= self.steps_unread:
                self.read_losses()
            now = time.perf_counter()
            self.row_speed.add(self.group.size * len(labels), now - started)
            self.progress_speed.add(self.group.size * len(labels), now - started)
            if progress_due:
                self.report_progress()
            if row_due:
                self.report_train_row(rate)
            if checkpoint_due:
                self.checkpoint()
            started = time.perf_counter()

    def take_step(self, images: Tensor, labels: Tensor, rate: float) -> None:
        """One step of the optimizer at the learning rate `rate`."""
        with autocast(self.precision, self.device):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.group.average_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.unread.append((len(labels), loss.detach(), (logits.detach().argmax(1) != labels).sum()))

    def read_losses(self) -> None:
        """Adds up this worker's losses and errors of the steps since the last reading. Raises `Diverged`."""
        if not self.unread:
            return
        counts, losses, errors = zip(*self.unread, strict=True)
        self.unread.clear()
        window = self.position.window
        first_step = self.step - len(counts) + 1
        for step, (count, loss, wrong) in enumerate(
            zip(counts, torch.stack(losses).tolist(), torch.stack(errors).tolist(), strict=True), first_step
        ):
            if not math.isfinite(loss):
                raise Diverged(step, f"the loss is {loss}")
            self.latest_loss = loss
            window.images += count
            window.loss += loss * count
            window.errors += wrong

    def evaluate(self) -> None:
        """The row of metrics at the end of an epoch."""
        evaluation = evaluate(
            self.model,
            self.data,
            precision=self.precision,
            before_batch=self.obey_cancellation,
            group=self.group,
        )
        if not math.isfinite(evaluation.loss):
            raise Diverged(self.step, f"the loss in evaluation is {evaluation.loss}")
        loss, error = (HOLDOUT_LOSS, HOLDOUT_ERROR) if self.spec.dataset.holdout else (TEST_LOSS, TEST_ERROR)
        self.position.metrics = {loss.name: evaluation.loss, error.name: evaluation.error}
        self.report(Metrics(kind="eval", epoch=self.position.epoch + 1, step=self.step, values=self.position.metrics))
        if self.telemetry_due() and self.group.leads:
            images, labels = next(self.data.eval_batches())
            values = layer_telemetry.measure(self.model, self.spec, images, labels, precision=self.precision)
            self.report(Metrics(kind="telemetry", epoch=self.position.epoch + 1, step=self.step, values=values))

    def checkpoint(self) -> None:
        """Saves where the training stands, unless that is saved already."""
        self.read_losses()
        self.checkpoint_time = time.monotonic()
        if self.checkpoint_step == self.step:
            return
        own, *self.position.other_windows = self.windows()
        if not self.group.leads:
            self.checkpoint_step = self.step
            return
        self.position.window = own
        if not all(bool(torch.isfinite(tensor).all()) for tensor in self.model.state_dict().values()):
            raise Diverged(self.step, "a weight is not finite")
        checkpoint = capture(self.spec, self.model, self.optimizer, self.position, versions())
        try:
            self.save(checkpoint.event, checkpoint)
        except OSError as error:
            raise CheckpointNotWritten(
                f"the checkpoint at step {self.step} could not be written ({error}): make room, or check the disk"
            ) from error
        self.checkpoint_step = self.step

    def windows(self) -> list[Window]:
        """The window of every worker, by rank."""
        window = self.position.window
        gathered = self.group.gather([window.images, window.loss, window.errors])
        return [Window(int(images), loss, int(errors)) for images, loss, errors in gathered]

    def obey(self) -> tuple[bool, bool]:
        """Ends the training if that was asked of any worker; else whether progress and a checkpoint are due by now."""
        request = self.control()
        cancel, pause, progress_due, checkpoint_due = self.group.agree(
            request == "cancel", request == "pause", self.progress_time_due(), self.checkpoint_time_due()
        )
        if cancel:
            raise Cancelled
        if pause:
            raise Paused
        return progress_due, checkpoint_due

    def obey_cancellation(self) -> None:
        """Within an evaluation a pause waits for its end, so that a checkpoint never lies between the two."""
        (cancel,) = self.group.agree(self.control() == "cancel")
        if cancel:
            raise Cancelled

    @property
    def steps_unread(self) -> int:
        """After so many steps their losses are read."""
        return GPU_STEPS_UNREAD if self.device.type == "cuda" else 1

    def train_row_due(self) -> bool:
        """Up to ten times an epoch, evenly, the last time at its end."""
        steps, step = self.spec.steps_per_epoch, self.position.step_in_epoch
        return step * TRAIN_ROWS_PER_EPOCH // steps > (step - 1) * TRAIN_ROWS_PER_EPOCH // steps

    def telemetry_due(self) -> bool:
        """At the end of every so many epochs and of the last one, where it is on."""
        wanted, epoch = self.spec.telemetry, self.position.epoch + 1
        return wanted is not None and (epoch % wanted.every_epochs == 0 or epoch == self.spec.epochs)

    def epoch_checkpoint_due(self) -> bool:
        """At the end of every so many epochs and of the last one."""
        epoch = self.position.epoch
        return epoch % self.spec.checkpoint.every_epochs == 0 or epoch == self.spec.epochs

    def agreed_checkpoint_due(self) -> bool:
        """Every so many seconds, by the clock of the first worker."""
        (due,) = self.group.agree(self.checkpoint_time_due())
        return due

    def checkpoint_time_due(self) -> bool:
        """Every so many seconds, by this worker's clock if it leads."""
        every_s = self.spec.checkpoint.every_s
        return every_s is not None and self.group.leads and time.monotonic() - self.checkpoint_time >= every_s

    def progress_time_due(self) -> bool:
        """About every second, by this worker's clock if it leads."""
        return self.group.leads and time.monotonic() - self.progress_time >= PROGRESS_INTERVAL_S

    def report_start(self) -> None:
        """Reports what is about to run."""
        self.report(
            Started(
                device=device_name(self.device),
                precision=self.precision,
                parameters=sum(parameter.numel() for parameter in self.model.parameters()),
                steps_per_epoch=self.spec.steps_per_epoch,
                total_steps=self.spec.total_steps,
                resumed_from_step=self.resumed_from_step,
                versions=versions(),
            )
        )

    def report_progress(self) -> None:
        """Reports where the training stands."""
        self.progress_time = time.monotonic()
        self.report(
            Progress(
                epoch=self.position.epoch + 1,
                step=self.step,
                images_per_s=self.progress_speed.take(),
                train_loss=self.latest_loss,
            )
        )

    def report_train_row(self, rate: float) -> None:
        """Reports the averages since the row before, and begins anew."""
        windows = self.windows()
        images = sum(window.images for window in windows)
        values: dict[str, float] = {
            TRAIN_LOSS.name: sum(window.loss for window in windows) / images,
            TRAIN_ERROR.name: sum(window.errors for window in windows) / images,
            LEARNING_RATE.name: rate,
            IMAGES_PER_S.name: self.row_speed.take(),
        }
        self.position.window = Window()
        self.report(Metrics(kind="train", epoch=self.position.epoch + 1, step=self.step, values=values))


def unheard(_event: Event) -> None:
    """The report of a worker that does not lead."""


class Speed:
    """Images trained on a second; evaluations and checkpoints do not count."""

    def __init__(self) -> None:
        self.images, self.seconds = 0, 0.0

    def add(self, images: int, seconds: float) -> None:
        """Counts `images` that took `seconds`."""
        self.images += images
        self.seconds += seconds

    def take(self) -> float:
        """Images a second since the last taking."""
        speed = self.images / max(self.seconds, 1e-9)
        self.images, self.seconds = 0, 0.0
        return speed


def device_name(device: torch.device) -> str:
    """ "cpu", or the name of the GPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


@cache
def versions() -> dict[str, str]:
    """Of what computes."""
    try:
        ours = metadata.version("normlab")
    except metadata.PackageNotFoundError:
        ours = "not installed"
    return {"python": python_version(), "torch": torch.__version__, "numpy": np.__version__, "normlab": ours}
