"""The loss and the error of a model on the images a spec evaluates on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from worker.arithmetic import Precision, autocast
from worker.data import TrainingData


@dataclass(frozen=True)
class Evaluation:
    """`loss`: mean cross-entropy in nats. `error`: share of images whose largest logit is not their label's."""

    loss: float
    error: float


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: TrainingData,
    *,
    precision: Precision = "float32",
    before_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Evaluates `model`, on the device of `data`, in evaluation mode; `before_batch` may raise to give up."""
    model.eval()
    losses, errors = [], []
    for images, labels in data.eval_batches():
        before_batch()
        with autocast(precision, data.device):
            logits = model(images)
        losses.append(F.cross_entropy(logits.float(), labels, reduction="sum"))
        errors.append((logits.argmax(1) != labels).sum())
    return Evaluation(
        loss=math.fsum(torch.stack(losses).tolist()) / data.num_eval,
        error=sum(torch.stack(errors).tolist()) / data.num_eval,
    )
