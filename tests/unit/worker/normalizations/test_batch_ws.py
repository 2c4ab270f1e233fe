"""Batch normalization, with convolutions whose filters have mean 0 and variance 1."""

import numpy as np

from tests.unit.worker.normalizations.definitions import Array, check
from tests.unit.worker.normalizations.filters import check_filters, standardized


def training(x: Array, _: list[Array]) -> Array:
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return np.asarray((x - mean) / np.sqrt(variance + 1e-5))


def evaluation(x: Array, history: list[Array]) -> Array:
    mean, variance = np.zeros((1, 16, 1, 1)), np.ones((1, 16, 1, 1))
    for before in history:
        mean = 0.9 * mean + 0.1 * before.mean((0, 2, 3), keepdims=True)
        variance = 0.9 * variance + 0.1 * before.var((0, 2, 3), keepdims=True, ddof=1)
    return np.asarray((x - mean) / np.sqrt(variance + 1e-5))


def test_the_definition() -> None:
    check({"type": "batch_ws"}, training, evaluation)
    check_filters({"type": "batch_ws"}, standardized)
