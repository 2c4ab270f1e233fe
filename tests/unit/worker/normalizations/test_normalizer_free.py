"""Scaled weight standardization keeps the variance of a signal, and SkipInit starts every branch at 0."""

import numpy as np
import torch

from tests.unit.worker.normalizations.definitions import Array, batch, check, learned, make, specification
from tests.unit.worker.normalizations.filters import check_filters
from worker.models.layers import Convolution
from worker.normalizations.layers import normalize

GAIN = np.sqrt(2 / (1 - 1 / np.pi))  # of the ReLU


def scaled(weight: Array) -> Array:
    axes = (1, 2, 3)
    norm = np.sqrt(np.maximum(weight.var(axes, keepdims=True) * weight[0].size, 1e-4))
    return np.asarray(GAIN * (weight - weight.mean(axes, keepdims=True)) / norm)


def test_the_definition() -> None:
    check({"type": "normalizer_free"}, lambda x: x)
    check_filters({"type": "normalizer_free"}, scaled)


def test_a_filter_of_equal_weights_is_zero() -> None:
    weight = torch.full((2, 4, 3, 3), 0.5, dtype=torch.float64)
    assert torch.equal(specification({"type": "normalizer_free"}).filters(weight), torch.zeros_like(weight))


def test_the_last_layer_of_a_branch_multiplies_it_by_a_learned_number() -> None:
    layer = make({"type": "normalizer_free"}, "relu", ends_branch=True)
    parameters = learned(layer)
    x, residual = batch(0), batch(1)
    branch = parameters["skip_gain"] * (x * parameters["weight"] + parameters["bias"])
    found = layer(torch.from_numpy(x), torch.from_numpy(residual)).detach()
    np.testing.assert_allclose(found, np.maximum(branch + residual, 0))
    fresh = normalize(specification({"type": "normalizer_free"}), 16, "relu", ends_branch=True)
    assert fresh.get_parameter("skip_gain").item() == 0


def test_a_convolution_keeps_the_variance_of_a_signal_after_a_relu() -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = Convolution(64, 256, 3, normalization=specification({"type": "normalizer_free"}), bias=False)
    with torch.no_grad():
        convolution.weight.normal_(generator=generator)
        x = torch.randn(8, 64, 16, 16, generator=generator).relu()
        assert 0.9 < float(convolution(x).var()) < 1.1
