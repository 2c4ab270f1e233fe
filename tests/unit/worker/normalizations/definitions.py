"""Compares a layer with a definition in float64 NumPy, which is independent of torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import nn

from worker.normalizations.layers import normalize
from worker.normalizations.normalization import Activation, NormalizationSpec
from worker.normalizations.registry import Normalization

Array = NDArray[np.float64]
NUM_CHANNELS = 16

_NORMALIZATION: TypeAdapter[NormalizationSpec] = TypeAdapter(Normalization)


def specification(given: dict[str, Any]) -> NormalizationSpec:
    """Return the normalization of a job."""
    return _NORMALIZATION.validate_python(given)


def make(given: dict[str, Any], activation: Activation | None = None, **options: Any) -> nn.Module:
    """Return a layer in float64 for 16 channels, every parameter of which is moved away from its initial value."""
    layer = normalize(specification(given), NUM_CHANNELS, activation, **options).double()
    with torch.no_grad():
        for number, (name, parameter) in enumerate(layer.named_parameters()):
            noise = np.random.default_rng(number).uniform(-0.3, 0.3, parameter.shape)
            if name == "gate":  # within its limits, at the end of which it starts
                parameter.mul_(0.5 + torch.from_numpy(noise))
            else:
                parameter.add_(torch.from_numpy(np.asarray(noise)))
    return layer


def batch(number: int, images: int = 4) -> Array:
    """Return feature maps whose channels and images differ in mean and scale, (N, 16, 5, 6)."""
    random = np.random.default_rng(100 + number)
    scale = random.uniform(0.5, 3, (images, NUM_CHANNELS, 1, 1))
    return random.normal(size=(images, NUM_CHANNELS, 5, 6)) * scale + random.normal(size=scale.shape)


def learned(layer: nn.Module) -> dict[str, Array]:
    """Return the parameters of a layer, those of channels in a shape that broadcasts over feature maps."""
    return {name: _per_channel(parameter.detach().numpy()) for name, parameter in layer.named_parameters()}


def _per_channel(values: Array) -> Array:
    return values.reshape(-1, 1, 1) if values.shape == (NUM_CHANNELS,) else values


def relu(y: Array, **_: Array) -> Array:
    """Return the positive part."""
    return np.maximum(y, 0)


def check(
    given: dict[str, Any],
    training: Callable[..., Array],
    evaluation: Callable[..., Array] | None = None,
    *,
    activate: Callable[..., Array] = relu,
) -> None:
    """Compare the layer with its definition over three batches of training and one of evaluation.

    Args:
        given: The normalization of a job.
        training: Returns the normalized x for `training(x, **parameters)`, without the scale `weight` and the shift
            `bias` of a channel. If `evaluation` is given, for `training(x, history, **parameters)`, where `history` are
            the batches of training before x.
        evaluation: The same in evaluation, after the batches of `history`; by default as in training.
        activate: The activation, `activate(y, **parameters)`.
    """
    for activation in (None, "relu"):
        layer = make(given, activation)
        parameters = learned(layer)
        weight, bias = parameters.pop("weight", np.float64(1)), parameters.pop("bias", np.float64(0))
        history: list[Array] = []
        for number in range(4):
            if number == 3:
                layer.eval()
            x, residual = batch(number), batch(10 + number)
            if evaluation is None:
                normalized = training(x, **parameters)
            else:
                normalized = (training if layer.training else evaluation)(x, history, **parameters)
            expected = normalized * weight + bias + residual
            if activation is not None:
                expected = activate(expected, **parameters)
            found = layer(torch.from_numpy(x), torch.from_numpy(residual)).detach().numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
            history.append(x)
