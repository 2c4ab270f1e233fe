"""The loss and the error of a model on the images a spec evaluates on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from worker.data.batches import TrainingData
from worker.distributed.process_group import ALONE, ProcessGroup
from worker.training.precision import Precision, autocast


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
    group: ProcessGroup = ALONE,
) -> Evaluation:
    """Evaluates `model`, on the device of `data`, in evaluation mode; `before_batch` may raise to give up.

    The workers of a group each evaluate their share, with the running averages of the first, and learn the whole.
    """
    model.eval()
    group.share_buffers(model)
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
