"""How well the gradient predicts the loss and the gradients along a step, as Santurkar et al. 2018 measure it.

From the weights of an epoch, points along the step in the direction of the gradient are visited: weights - t · learning
rate · gradient, for each t of `POINTS`, with the learning rate of the latest step. At each point the loss and its
gradient are computed again (Santurkar et al. 2018, arXiv 1805.11604, section 3.2, figure 4):

- `gradient_norm`, `stage_gradient_norm`: l2 norm of the gradient at the beginning of the step, of all weights and of
  those of each stage of the network;
- `gradient_distance_min`, `gradient_distance_max`: least and greatest l2 distance from it of those at the points;
- `step_loss_min`, `step_loss_max`: least and greatest loss at the points and at the beginning;
- `effective_smoothness`: greatest ratio of the distance of a gradient to the distance of the weights, which compares
  epochs of different learning rates.

The loss is that of the training without weight decay, over training images without augmentation, in batches of the size
of the training, normalized as in training. It is computed in float32, because in bfloat16 the weights of close points
round to the same values. Everything happens on a copy of the network: nothing that the training reads is written.
"""

import math
from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.data.batches import Batch, TrainingData
from worker.metrics import (
    EFFECTIVE_SMOOTHNESS,
    GRADIENT_DISTANCE_MAX,
    GRADIENT_DISTANCE_MIN,
    GRADIENT_NORM,
    STAGE_GRADIENT_NORM,
    STEP_LOSS_MAX,
    STEP_LOSS_MIN,
)
from worker.models import build_model
from worker.normalizations.sync_batch import SyncBatchNormalization
from worker.spec import TrainingSpec
from worker.training.flat_tensors import FlatParameters

POINTS = (0.5, 1.0, 2.0, 4.0)
"""Lengths that are visited, in steps of the training."""
MAX_IMAGES = 128
"""Images that the loss is computed over, at most."""
LEAST_SHARE = 1e-3
"""Least learning rate of the points, as a share of the scaled one; the weights of closer points are almost equal."""


def probe(spec: TrainingSpec, data: TrainingData) -> Sequence[Batch]:
    """Return the batches of the loss: the first training images without augmentation, the same in every epoch.

    Args:
        spec: The spec. A batch has as many images as a step of a worker, or of all of them if they are normalized
            together, and at most `MAX_IMAGES`.
        data: Its images.
    """
    together = isinstance(spec.normalization, SyncBatchNormalization)
    size = min(spec.batch_size * (spec.num_workers if together else 1), MAX_IMAGES)
    count = max(1, min(MAX_IMAGES, spec.dataset.num_train) // size)
    return [(images, labels) for images, labels, _ in islice(data.plain_batches("train", size), count)]


def measure(model: nn.Module, spec: TrainingSpec, batches: Sequence[Batch], learning_rate: float) -> dict[str, float]:
    """Measure the gradient of a model and its changes along a step; the model is unchanged.

    Args:
        model: The model, with the weights that are trained.
        spec: Its spec.
        batches: The images and labels of the loss, in batches of one size.
        learning_rate: That of the latest step.

    Returns:
        The values of the row, by metric or by `stage/metric`.
    """
    network = _Copy(model, spec, batches)
    loss, gradient = network.descent()
    norm, by_stage = float(torch.linalg.vector_norm(gradient)), network.norms(gradient)
    rate = max(learning_rate, LEAST_SHARE * spec.scaled_learning_rate)
    losses, distances, ratios = [loss], [], []
    for length in (rate * point for point in POINTS):
        loss, there = network.descent(gradient, length)
        distance = float(torch.linalg.vector_norm(there - gradient))
        losses.append(loss)
        distances.append(distance)
        ratios.append(distance / (length * norm) if norm else 0.0)
    return {STAGE_GRADIENT_NORM.of_layer(stage): value for stage, value in by_stage.items()} | {
        GRADIENT_NORM.name: norm,
        GRADIENT_DISTANCE_MIN.name: min(map(_or_infinite, distances)),
        GRADIENT_DISTANCE_MAX.name: max(map(_or_infinite, distances)),
        STEP_LOSS_MIN.name: min(map(_or_infinite, losses)),
        STEP_LOSS_MAX.name: max(map(_or_infinite, losses)),
        EFFECTIVE_SMOOTHNESS.name: max(map(_or_infinite, ratios)),
    }


class _Copy:
    """A copy of a network in training mode, in memory of its own and without the process group of the network.

    Args:
        model: The network.
        spec: Its spec.
        batches: The images and labels of the loss.
    """

    def __init__(self, model: nn.Module, spec: TrainingSpec, batches: Sequence[Batch]) -> None:
        self._batches, self._label_smoothing = batches, spec.label_smoothing
        self._copy = build_model(spec.model, spec.normalization, seed=spec.seed).to(batches[0][0].device).train()
        self._flat = FlatParameters(self._copy)
        with torch.no_grad():
            torch._foreach_copy_(tuple(self._flat.parameters), tuple(model.parameters()))
        self._weights = self._flat.values.clone()
        self._state = [(own, original) for own, original in zip(self._copy.buffers(), model.buffers(), strict=True)]

    def descent(self, direction: Tensor | None = None, length: float = 0.0) -> tuple[float, Tensor]:
        """Return the loss and its gradient, float32 (n,), at weights - length · direction.

        Each batch begins with the running averages of the network, which therefore do not depend on the other batches.
        """
        self._flat.values.copy_(self._weights)
        if direction is not None:
            self._flat.values.sub_(direction, alpha=length)
        total, losses = self._flat.zeros(), []
        parts = self._flat.views(total)
        for images, labels in self._batches:
            with torch.no_grad():
                for own, original in self._state:
                    own.copy_(original)
            loss = F.cross_entropy(self._copy(images), labels, label_smoothing=self._label_smoothing)
            torch._foreach_add_(parts, torch.autograd.grad(loss, self._flat.parameters))
            losses.append(loss.detach())
        count = len(self._batches)
        return float(torch.stack(losses).mean()), total.div_(count)

    def norms(self, gradient: Tensor) -> dict[str, float]:
        """Return the l2 norm of the part of a gradient that belongs to each stage, in the order of the forward pass."""
        squares: dict[str, Tensor] = {}
        for (name, _), part in zip(self._copy.named_parameters(), self._flat.views(gradient), strict=True):
            stage = _stage_of(name)
            squares[stage] = squares.get(stage, gradient.new_zeros(())) + part.square().sum()
        return {stage: float(square.sqrt()) for stage, square in squares.items()}


def _stage_of(parameter: str) -> str:
    """Return the part of the network that a parameter belongs to: the stem, a stage, or the classifier."""
    first, second, *_ = parameter.split(".")
    return f"{first}.{second}" if second.isdigit() else first.removesuffix("_norm")


def _or_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
