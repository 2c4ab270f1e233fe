"""The loss and the error of a model on the test images or the held-out images of a spec."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.architecture import IMAGE_CHANNELS, IMAGE_SIZE
from worker.data.batches import EVAL_BATCH_SIZE, TrainingData
from worker.distributed.process_group import SINGLE_WORKER, ProcessGroup
from worker.metrics import EvaluatedSplit
from worker.numerics.precision import Precision, autocast
from worker.training.graphs import capture


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        loss: Mean cross-entropy in nats.
        error: Fraction of the images whose largest logit is not that of their label.
    """

    loss: float
    error: float


class EvaluationStep:
    """The evaluation of one batch; on a GPU a full batch is captured as a CUDA graph.

    Args:
        model: The model, on the device. Its parameters and buffers must keep their addresses after the capture.
        device: Device of the batches.
        precision: Precision of the activations.
    """

    def __init__(self, model: nn.Module, device: torch.device, precision: Precision) -> None:
        self._model, self._device, self._precision = model, device, precision
        self.is_capturable = device.type == "cuda"
        self.graph: torch.cuda.CUDAGraph | None = None
        self.nbytes = 0

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture the evaluation of a full batch, which the following ones replay. It is tried once.

        Raises:
            RuntimeError: It cannot be captured, or the device does not work any more.
        """
        self.is_capturable = False
        before = torch.cuda.memory_reserved(self._device)
        # The channels come last, as in the batches of worker.data.
        shape = EVAL_BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, IMAGE_CHANNELS
        self._images = torch.zeros(shape, device=self._device).permute(0, 3, 1, 2)
        self._labels = torch.zeros(EVAL_BATCH_SIZE, dtype=torch.int64, device=self._device)
        # In float64, which holds the sum of a batch and its count of errors exactly.
        self._result = torch.zeros(2, dtype=torch.float64, device=self._device)
        self._model.eval()

        def body() -> None:
            self._result.copy_(self._evaluate(self._images, self._labels))

        self.graph = capture(body, body, self._device)
        self.nbytes = torch.cuda.memory_reserved(self._device) - before

    def run(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the losses of a batch and its number of errors, float64 (2,), on the device."""
        if self.graph is None or len(labels) != EVAL_BATCH_SIZE:
            return self._evaluate(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self.graph.replay()
        return self._result.clone()

    def _evaluate(self, images: Tensor, labels: Tensor) -> Tensor:
        with autocast(self._precision, self._device):
            logits = self._model(images)
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        return torch.stack([loss.double(), (logits.argmax(1) != labels).sum().double()])


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: TrainingData,
    *,
    split: EvaluatedSplit = "test",
    precision: Precision = "float32",
    before_batch: Callable[[], None] = lambda: None,
    group: ProcessGroup = SINGLE_WORKER,
    step: EvaluationStep | None = None,
) -> Evaluation:
    """Evaluate `model`, which is left in evaluation mode.

    The workers of a group each evaluate a part of the images, with the running averages of rank 0, and all return the
    result over all images.

    Args:
        model: The model, on the device of `data`.
        data: The images.
        split: Which of them: one of `data.splits`.
        precision: Precision of the activations.
        before_batch: Called before every batch; an exception ends the evaluation.
        group: The process group of the job.
        step: Evaluates each batch of `model` in `precision`; None: a new one.
    """
    step = step or EvaluationStep(model, data.device, precision)
    model.eval()
    group.broadcast_buffers(model)
    results = []
    for images, labels in data.eval_batches(split):
        before_batch()
        if len(labels):
            results.append(step.run(images, labels))
    losses, errors = torch.stack(results, dim=1).tolist() if results else ([], [])
    loss, wrong = group.sum(math.fsum(losses), sum(errors))
    count = data.num_images(split)
    return Evaluation(loss=loss / count, error=wrong / count)
