"""Precise statistics: running averages, replaced by statistics over many training images (Wu & Johnson 2021).

A running average spans the last few dozen batches, in which the weights still changed, so it is noisy and lags behind.
Wu & Johnson, "Rethinking 'Batch' in BatchNorm" (arXiv 2105.07576, section 3), estimate mean and variance again with the
final weights: the mean is E[μ_B], the variance E[μ_B² + σ_B²] - E[μ_B]², over batches B that are normalized as in
training.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice

import torch
from torch import Tensor, nn

from worker.data.batches import TrainingData
from worker.numerics.precision import Precision, autocast
from worker.spec import TrainingSpec


class _Moments:
    """Sums of a channel's values and of their squares, in float64, over all inputs of a layer."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | float = 0.0

    def observe(self, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Add the input of a forward pass, (N, C, H, W)."""
        x = given[0].double()
        self.count += x.numel() // x.shape[1]
        self.sums = self.sums + torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])

    def store(self, layer: nn.Module) -> None:
        """Put mean, variance and standard deviation into the buffers of `layer` that have them."""
        assert isinstance(self.sums, Tensor)
        mean, square = self.sums / self.count
        variance = (square - mean.square()).clamp(min=0)
        for name, value in (("mean", mean), ("var", variance), ("std", variance.sqrt())):
            if (buffer := getattr(layer, f"running_{name}", None)) is not None:
                buffer.copy_(value.view_as(buffer))


def estimate(
    model: nn.Module, spec: TrainingSpec, data: TrainingData, images: int, *, epoch: int, precision: Precision
) -> None:
    """Replace the running averages of a model, in place.

    Args:
        model: The model; it is left in training mode.
        spec: Its spec.
        data: Its images.
        images: Training images to estimate with; all, if there are fewer. Whole batches are used, at least one.
        epoch: The epoch whose order and augmentation the images have.
        precision: Precision of the activations.
    """
    layers = [layer for layer in model.modules() if any("running_" in name for name, _ in _buffers(layer))]
    moments = [_Moments() for _ in layers]
    model.train()
    with ExitStack() as hooks:
        for layer, found in zip(layers, moments, strict=True):
            hooks.callback(layer.register_forward_pre_hook(found.observe).remove)
        for batch in _batches(spec, data, images, epoch):
            with autocast(precision, batch.device):
                model(batch)
    for layer, found in zip(layers, moments, strict=True):
        found.store(layer)


def _buffers(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return layer.named_buffers(recurse=False)


def _batches(spec: TrainingSpec, data: TrainingData, images: int, epoch: int) -> Iterator[Tensor]:
    """Yield batches of the images that training normalizes together, float32 (b, 3, 32, 32)."""
    together = spec.normalization.images_together(spec.batch_size, spec.num_workers) or spec.batch_size
    joined = max(1, together // spec.batch_size) if spec.num_workers > 1 else 1
    size = joined * spec.batch_size
    batches = (found for found, _ in data.epoch_batches(epoch))
    for _ in range(max(1, images // size)):
        if not (parts := list(islice(batches, joined))):
            return
        yield torch.cat(parts) if joined > 1 else parts[0]
