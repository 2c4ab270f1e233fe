"""Statistics of the normalization layers, the part of the telemetry that forward passes measure.

They are measured on the first batch of evaluation images, with the model in evaluation mode. No weight, running average
or random number changes, so a training is bit-identical with and without telemetry.

For every layer:

- `activation_rms`: root mean square of its input;
- `percentile_1`, `percentile_20`, `percentile_80`, `percentile_99`: percentiles of its input, over images, channels and
  pixels (Wu & He 2018, figure 6, of the last layer there), from a fixed sample of at least 65,536 values if there are
  as many;
- `gain_rms`: root mean square of its learned scale;
- `mean_gap`, batch normalization only: distance of the mean of a batch from the running mean, in running standard
  deviations;
- `variance_gap`, batch normalization only: distance of the variance of a batch from the running variance, as
  |ln ratio|.

The gaps are the difference between training and evaluation: noise, which grows as batches shrink, and the lag of the
running averages. They are root mean squares over the channels and over batches of the size that training normalizes
together, with all preceding layers normalizing by the batch too. `train_mode_error` is the error on the same images
with every layer normalizing by the batch; its difference to `eval_mode_error` is the effect of the gaps on the error.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import gn
from worker.architecture import ARCHITECTURES, ModelName
from worker.metrics import (
    ACTIVATION_RMS,
    EVAL_MODE_ERROR,
    GAIN_RMS,
    MEAN_GAP,
    PERCENTILES,
    TRAIN_MODE_ERROR,
    VARIANCE_GAP,
)
from worker.normalizations.layers import BatchNorm, SyncBatchNorm
from worker.numerics.precision import Precision, autocast
from worker.spec import TrainingSpec

MAX_LAYERS = 24
"""Measured layers of a model at most, spread evenly over its depth, so that a row stays small."""
MAX_BATCHES = 64
"""Batches that the gaps are measured on, at most."""
MIN_SAMPLE = 65_536
"""Values that percentiles are computed of, at least, if there are as many; to sort all would take most of the time."""


def layers_of(model: ModelName) -> Sequence[str]:
    """Return the names of the measured layers in the order of the forward pass."""
    names = [feature_map.layer for feature_map in ARCHITECTURES[model].feature_maps()]
    if len(names) <= MAX_LAYERS:
        return names
    return [names[n * (len(names) - 1) // (MAX_LAYERS - 1)] for n in range(MAX_LAYERS)]


@torch.inference_mode()
def measure(
    model: nn.Module, spec: TrainingSpec, images: Tensor, labels: Tensor, *, precision: Precision = "float32"
) -> dict[str, float]:
    """Measure the telemetry of a model, which is left in evaluation mode and is otherwise unchanged.

    Args:
        model: The model.
        spec: Its spec.
        images: Standardized images, float32 (N, 3, 32, 32).
        labels: Their labels, int64 (N,).
        precision: Precision of the activations.

    Returns:
        The values of the row, by metric or by `layer/metric`.
    """
    model.eval()
    layers = {name: model.get_submodule(name) for name in layers_of(spec.model)}
    values: dict[str, float] = {}

    def count_errors(images: Tensor, labels: Tensor) -> float:
        with autocast(precision, images.device):
            wrong = model(images).argmax(1) != labels
        return float(wrong.sum())

    features: dict[str, Tensor] = {}
    with _observed(layers, lambda name, _, x: features.update({name: torch.cat([_rms(x).view(1), _percentiles(x)])})):
        count_errors(images, labels)
    for name, layer in layers.items():
        scale, *percentiles = features[name].tolist()
        values[ACTIVATION_RMS.of_layer(name)] = scale
        values |= {
            metric.of_layer(name): value for metric, value in zip(PERCENTILES.values(), percentiles, strict=True)
        }
        if isinstance(gain := getattr(layer, "weight", None), Tensor):
            values[GAIN_RMS.of_layer(name)] = float(_rms(gain))

    if any(isinstance(layer, BatchNorm) for layer in layers.values()):
        size = _images_normalized_together(spec)
        count = min(max(1, len(images) // size), MAX_BATCHES)
        seen = min(len(images), size * count)
        batches = list(zip(torch.split(images[:seen], size), torch.split(labels[:seen], size), strict=True))
        values[EVAL_MODE_ERROR.name] = sum(count_errors(*batch) for batch in batches) / seen
        gaps: dict[str, list[Tensor]] = {name: [] for name in layers}
        with _normalized_by_batch(model), _observed(layers, lambda name, *of: gaps[name].append(_gaps(*of))):
            values[TRAIN_MODE_ERROR.name] = sum(count_errors(*batch) for batch in batches) / seen
        for name, found in gaps.items():
            mean_gap, variance_gap = torch.stack(found).square().mean((0, 2)).sqrt().tolist()
            values |= {MEAN_GAP.of_layer(name): mean_gap, VARIANCE_GAP.of_layer(name): variance_gap}
    return values


def _images_normalized_together(spec: TrainingSpec) -> int:
    """Return the number of images that training normalizes by the same statistics."""
    return spec.normalization.images_together(spec.batch_size, spec.num_workers) or spec.batch_size


def _gaps(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the distances of the mean and the variance of the batch `x` from the running ones, (2, C)."""
    assert isinstance(layer, BatchNorm)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    running = layer.running_var + layer.eps
    return torch.stack([(mean - layer.running_mean) / running.sqrt(), ((variance + layer.eps) / running).log()])


def sample(x: Tensor) -> Tensor:
    """Return a fixed sample of the values of x (N, C, H, W), float32 (n,), or all if they are few.

    It is every k-th value for an odd k, so that it has almost equally many values of every channel and pixel, whose
    numbers are powers of 2.
    """
    values = x.permute(0, 2, 3, 1).reshape(-1)
    step = len(values) // MIN_SAMPLE
    return values[:: max(1, step - (step + 1) % 2)].float()


def _percentiles(x: Tensor) -> Tensor:
    values = sample(x)
    return torch.quantile(values, values.new_tensor([percent / 100 for percent in PERCENTILES]))


def _rms(x: Tensor) -> Tensor:
    return x.float().square().mean().sqrt()


@contextmanager
def _observed(layers: dict[str, nn.Module], observe: Callable[[str, nn.Module, Tensor], object]) -> Iterator[None]:
    """Call `observe(name, layer, x)` with the input x of each layer in every forward pass."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda layer, given: (observe(name, layer, given[0]), None)[1]

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _normalized_by_batch(model: nn.Module) -> Iterator[None]:
    """Make every batch normalization use the statistics of its batch, without updating the running averages."""

    def hook(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor | tuple[Tensor, Tensor]) -> object:
        assert isinstance(layer, BatchNorm)
        y = gn.batch_norm(
            given[0],
            None,
            None,
            layer.weight,
            layer.bias,
            training=True,
            eps=layer.eps,
            residual=given[1] if len(given) > 1 else None,
            activation=layer.activation,
        )
        return (y, y) if isinstance(output, tuple) else y

    handles = [
        layer.register_forward_hook(hook) for layer in model.modules() if isinstance(layer, BatchNorm | SyncBatchNorm)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
