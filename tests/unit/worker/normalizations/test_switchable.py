"""Switchable normalization mixes the means and the variances of instance, layer and batch normalization."""

import numpy as np

from tests.unit.worker.normalizations.definitions import Array, check

AXES = ((2, 3), (1, 2, 3), (0, 2, 3))


def softmax(logits: Array) -> Array:
    return np.asarray(np.exp(logits) / np.exp(logits).sum())


def mixed(x: Array, statistics: list[tuple[Array, Array]], mean_weight: Array, var_weight: Array) -> Array:
    mean = sum(share * mean for share, (mean, _) in zip(softmax(mean_weight), statistics, strict=True))
    variance = sum(share * variance for share, (_, variance) in zip(softmax(var_weight), statistics, strict=True))
    return np.asarray((x - mean) / np.sqrt(variance + 1e-5))


def statistics(x: Array) -> list[tuple[Array, Array]]:
    return [(x.mean(axes, keepdims=True), x.var(axes, keepdims=True)) for axes in AXES]


def training(x: Array, _: list[Array], **weights: Array) -> Array:
    return mixed(x, statistics(x), **weights)


def evaluation(x: Array, history: list[Array], **weights: Array) -> Array:
    mean, variance = np.zeros((1, 16, 1, 1)), np.ones((1, 16, 1, 1))
    for before in history:
        _, _, (of_batch, spread) = statistics(before)
        mean, variance = 0.9 * mean + 0.1 * of_batch, 0.9 * variance + 0.1 * spread
    return mixed(x, [*statistics(x)[:2], (mean, variance)], **weights)


def test_the_definition() -> None:
    check({"type": "switchable"}, training, evaluation)
