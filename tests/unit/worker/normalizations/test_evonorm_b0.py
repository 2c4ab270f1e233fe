"""EvoNorm-B0: x / max(deviation of the batch, v·x + deviation of the image) × γ + β."""

import numpy as np
import torch

from tests.unit.worker.normalizations.definitions import Array, batch, check, learned, make

EPS = 1e-5
DECAY = 0.9


def evonorm_b0(x: Array, variance: Array, v: Array | None) -> Array:
    if v is None:  # without an activation
        return x
    deviation = np.sqrt(x.var((2, 3), keepdims=True) + EPS)
    return np.asarray(x / np.maximum(np.sqrt(variance + EPS), v * x + deviation))


def over_the_batch(x: Array) -> Array:
    return np.asarray(x.var((0, 2, 3), keepdims=True))


def training(x: Array, _: list[Array], v: Array | None = None) -> Array:
    return evonorm_b0(x, over_the_batch(x), v)


def evaluation(x: Array, history: list[Array], v: Array | None = None) -> Array:
    variance = np.ones((1, 16, 1, 1))
    for before in history:
        variance = DECAY * variance + (1 - DECAY) * over_the_batch(before)
    return evonorm_b0(x, variance, v)


def test_the_definition() -> None:
    check({"type": "evonorm_b0"}, training, evaluation, activate=lambda y, **_: y)


def test_after_the_sum_of_a_residual_block_it_is_a_scale_a_shift_and_the_relu() -> None:
    layer = make({"type": "evonorm_b0"}, "relu", ends_branch=True)
    x, residual = batch(0), batch(1)
    parameters = learned(layer)
    expected = np.maximum(x * parameters["weight"] + parameters["bias"] + residual, 0)
    np.testing.assert_allclose(layer(torch.from_numpy(x), torch.from_numpy(residual)).detach(), expected)
    assert set(parameters) == {"weight", "bias"}
    assert not list(layer.buffers())
