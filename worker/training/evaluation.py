"""The loss and the error of a model on the evaluation images of a spec."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from worker.data.batches import TrainingData
from worker.distributed.process_group import SINGLE_WORKER, ProcessGroup
from worker.numerics.precision import Precision, autocast


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        loss: Mean cross-entropy in nats.
        error: Fraction of the images whose largest logit is not that of their label.
    """

    loss: float
    error: float


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: TrainingData,
    *,
    precision: Precision = "float32",
    before_batch: Callable[[], None] = lambda: None,
    group: ProcessGroup = SINGLE_WORKER,
) -> Evaluation:
    """Evaluate `model`, which is left in evaluation mode.

    The workers of a group each evaluate a part of the images, with the running averages of rank 0, and all return the
    result over all images.

    Args:
        model: The model, on the device of `data`.
        data: The images.
        precision: Precision of the activations.
        before_batch: Called before every batch; an exception ends the evaluation.
        group: The process group of the job.
    """
    model.eval()
    group.broadcast_buffers(model)
    losses, errors = [], []
    for images, labels in data.eval_batches():
        before_batch()
        if not len(labels):
            continue
        with autocast(precision, data.device):
            logits = model(images)
        losses.append(F.cross_entropy(logits.float(), labels, reduction="sum"))
        errors.append((logits.argmax(1) != labels).sum())
    own_loss = math.fsum(torch.stack(losses).tolist()) if losses else 0.0
    own_errors = sum(torch.stack(errors).tolist()) if errors else 0
    loss, wrong = group.sum(own_loss, own_errors)
    return Evaluation(loss=loss / data.num_eval, error=wrong / data.num_eval)
