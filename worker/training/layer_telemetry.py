"""What the normalization layers do, measured beside the training where a spec asks for it.

Measured on the first batch of evaluated images, in evaluation mode throughout: no weight, no running average and no
random number changes, so a training is the same to the last bit with telemetry as without.

Of a layer:

- `activation_rms`: root mean square of what it normalizes;
- `gain_rms`: root mean square of its learned scale;
- `mean_gap`, of batch normalization: how far the mean of a batch lies from the running average, in running deviations;
- `variance_gap`, of batch normalization: how far the variance of a batch lies from the running average, as |ln ratio|.

The gaps are what training adds to the layer and evaluation does not have: noise that grows as batches shrink, and the
lag of the averages. They are root mean squares over channels and over batches of the size that training normalizes by,
behind layers that normalize by the batch too. What they cost is the difference between `train_mode_error`, of the same
images with every layer normalizing by its batch, and `eval_mode_error`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.architecture import ARCHITECTURES, ModelName
from worker.metrics import ACTIVATION_RMS, EVAL_MODE_ERROR, GAIN_RMS, MEAN_GAP, TRAIN_MODE_ERROR, VARIANCE_GAP
from worker.normalizations.layers import BatchNorm, SyncBatchNorm
from worker.spec import TrainingSpec
from worker.training.precision import Precision, autocast

LAYERS = 24
"""Measured of a model at most, evenly over its depth: a row stays small."""
BATCHES = 64
"""Looked at for the gaps at most."""
DIGITS = 4


def layers_of(model: ModelName) -> Sequence[str]:
    """The layers that are measured, in the order of the forward pass."""
    names = [feature_map.layer for feature_map in ARCHITECTURES[model].feature_maps()]
    if len(names) <= LAYERS:
        return names
    return [names[n * (len(names) - 1) // (LAYERS - 1)] for n in range(LAYERS)]


@torch.inference_mode()
def measure(
    model: nn.Module, spec: TrainingSpec, images: Tensor, labels: Tensor, *, precision: Precision = "float32"
) -> dict[str, float]:
    """The numbers of the row, `layer/quantity` each, of standardized `images` (N, 3, 32, 32); leaves `model` as it was,
    but in evaluation mode."""
    model.eval()
    layers = {name: model.get_submodule(name) for name in layers_of(spec.model)}
    values: dict[str, float] = {}

    def error(images: Tensor, labels: Tensor) -> float:
        with autocast(precision, images.device):
            wrong = model(images).argmax(1) != labels
        return float(wrong.sum())

    scales: dict[str, Tensor] = {}
    with _watched(layers, lambda name, _, x: scales.update({name: _rms(x)})):
        error(images, labels)
    for name, layer in layers.items():
        values[ACTIVATION_RMS.of_layer(name)] = float(scales[name])
        if isinstance(gain := getattr(layer, "weight", None), Tensor):
            values[GAIN_RMS.of_layer(name)] = float(_rms(gain))

    if any(isinstance(layer, BatchNorm) for layer in layers.values()):
        size = _normalized_together(spec)
        count = min(max(1, len(images) // size), BATCHES)
        seen = min(len(images), size * count)
        batches = list(zip(torch.split(images[:seen], size), torch.split(labels[:seen], size), strict=True))
        values[EVAL_MODE_ERROR.name] = sum(error(*batch) for batch in batches) / seen
        gaps: dict[str, list[Tensor]] = {name: [] for name in layers}
        with _normalizing_by_the_batch(model), _watched(layers, lambda name, *of: gaps[name].append(_gaps(*of))):
            values[TRAIN_MODE_ERROR.name] = sum(error(*batch) for batch in batches) / seen
        for name, found in gaps.items():
            mean_gap, variance_gap = torch.stack(found).square().mean((0, 2)).sqrt().tolist()
            values |= {MEAN_GAP.of_layer(name): mean_gap, VARIANCE_GAP.of_layer(name): variance_gap}
    return {name: float(f"{value:.{DIGITS}g}") for name, value in values.items()}


def _normalized_together(spec: TrainingSpec) -> int:
    """Images whose statistics training takes together."""
    if spec.normalization.type == "sync_batch":
        return spec.global_batch_size
    return min(spec.batch_size, getattr(spec.normalization, "ghost_batch_size", None) or spec.batch_size)


def _gaps(layer: nn.Module, x: Tensor) -> Tensor:
    """Of the batch `x` the distances of its statistics from the running ones: (2, C)."""
    assert isinstance(layer, BatchNorm)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    running = layer.running_var + layer.eps
    return torch.stack([(mean - layer.running_mean) / running.sqrt(), ((variance + layer.eps) / running).log()])


def _rms(x: Tensor) -> Tensor:
    return x.float().square().mean().sqrt()


@contextmanager
def _watched(layers: dict[str, nn.Module], look: Callable[[str, nn.Module, Tensor], object]) -> Iterator[None]:
    """Has `look(name, layer, x)` see what each layer is given."""

    def watcher(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda layer, given: (look(name, layer, given[0]), None)[1]

    handles = [layer.register_forward_pre_hook(watcher(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _normalizing_by_the_batch(model: nn.Module) -> Iterator[None]:
    """Has every batch normalization take the statistics of its batch, as in training, and keep none of them."""

    def instead(layer: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
        assert isinstance(layer, BatchNorm)
        x = F.batch_norm(given[0], None, None, layer.weight, layer.bias, training=True, eps=layer.eps)
        if len(given) > 1 and given[1] is not None:
            x = x + given[1]
        return F.relu(x) if layer.activation else x

    handles = [
        layer.register_forward_hook(instead)
        for layer in model.modules()
        if isinstance(layer, BatchNorm | SyncBatchNorm)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
