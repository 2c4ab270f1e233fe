"""Batch-channel normalization: by estimated statistics, then by groups; filters of mean 0 and variance 1."""

import copy

import numpy as np
import torch

from tests.unit.worker.normalizations.definitions import Array, batch, make
from tests.unit.worker.normalizations.filters import check_filters, standardized

EPS = 1e-5


def estimates(history: list[Array], momentum: float = 0.1) -> tuple[Array, Array]:
    mean, variance = np.zeros((1, 16, 1, 1)), np.ones((1, 16, 1, 1))
    for x in history:
        spread = ((x - mean) ** 2).mean((0, 2, 3), keepdims=True)
        mean = (1 - momentum) * mean + momentum * x.mean((0, 2, 3), keepdims=True)
        variance = (1 - momentum) * variance + momentum * spread
    return mean, variance


def batch_channel(x: Array, history: list[Array], of_channels: tuple[Array, Array], of_groups: list[Array]) -> Array:
    mean, variance = estimates(history)
    x = (x - mean) / np.sqrt(variance + EPS) * of_channels[0] + of_channels[1]
    groups = x.reshape(len(x), 8, -1)
    normalized = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + EPS)
    weight, bias = (values.reshape(1, 8, 1) for values in of_groups)
    return np.asarray((normalized * weight + bias).reshape(x.shape))


def test_the_definition() -> None:
    layer = make({"type": "batch_channel_ws"}, "relu")
    values = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    of_channels = values["channel_weight"], values["channel_bias"]
    history: list[Array] = []
    for number in range(4):
        if number == 3:
            layer.eval()
        x, residual = batch(number), batch(10 + number)
        history += [x] if layer.training else []
        y = batch_channel(x, history, of_channels, [values["weight"], values["bias"]])
        found = layer(torch.from_numpy(x), torch.from_numpy(residual)).detach()
        np.testing.assert_allclose(found, np.maximum(y + residual, 0), rtol=1e-9, atol=1e-9)
    check_filters({"type": "batch_channel_ws"}, standardized)


def test_without_scales_and_shifts_it_has_no_parameters() -> None:
    layer = make({"type": "batch_channel_ws", "affine": False})
    assert list(layer.parameters()) == []
    ones, zeros = np.ones((16, 1, 1)), np.zeros((16, 1, 1))
    expected = batch_channel(batch(0), [batch(0)], (ones, zeros), [ones[:8], zeros[:8]])
    np.testing.assert_allclose(layer(torch.from_numpy(batch(0))), expected, rtol=1e-9, atol=1e-9)


def test_the_estimates_are_constants_for_the_gradient() -> None:
    layer = make({"type": "batch_channel_ws"})
    layer(torch.from_numpy(batch(0)))
    x = torch.from_numpy(batch(1)).requires_grad_()
    weights = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    found = torch.autograd.grad((layer(x) * weights).sum(), x)
    # In evaluation the updated estimates are constants.
    layer = copy.deepcopy(layer).eval()
    torch.testing.assert_close(found, torch.autograd.grad((layer(x) * weights).sum(), x))
