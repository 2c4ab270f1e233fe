"""Batch renormalization: (x - mean) / deviation × r + d, where r and d follow the running averages of evaluation.

Ioffe 2017, algorithm 1. The limits of r and d widen linearly: batch normalization before `ramp_start`.
"""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.unit.worker.normalizations.definitions import Array, batch, check, make, specification
from worker.normalizations.layers import normalize

RAMP = {"type": "batch_renorm", "momentum": 0.2, "ramp_start": 1, "r_ramp_end": 5, "d_ramp_end": 3}
EPS = 1e-5


def statistics(x: Array) -> tuple[Array, Array]:
    return x.mean((0, 2, 3), keepdims=True), np.sqrt(x.var((0, 2, 3), keepdims=True) + EPS)


def averages(history: list[Array], momentum: float) -> tuple[Array, Array]:
    mean, deviation = np.zeros((1, 16, 1, 1)), np.ones((1, 16, 1, 1))
    for x in history:
        of_batch, spread = statistics(x)
        mean, deviation = mean + momentum * (of_batch - mean), deviation + momentum * (spread - deviation)
    return mean, deviation


def ramp(step: int, start: int, end: int) -> float:
    return min(1, max(0, (step - start) / (end - start)))


def training(x: Array, history: list[Array]) -> Array:
    mean, deviation = statistics(x)
    running_mean, running_deviation = averages(history, 0.2)
    r_max = 1 + 2 * ramp(len(history), 1, 5)
    d_max = 5 * ramp(len(history), 1, 3)
    r = np.clip(deviation / running_deviation, 1 / r_max, r_max)
    d = np.clip((mean - running_mean) / running_deviation, -d_max, d_max)
    return np.asarray((x - mean) / deviation * r + d)


def evaluation(x: Array, history: list[Array]) -> Array:
    mean, deviation = averages(history, 0.2)
    return (x - mean) / deviation


def test_the_definition() -> None:
    check(RAMP, training, evaluation)


def test_until_the_ramp_starts_it_is_batch_normalization() -> None:
    layer, reference = make({"type": "batch_renorm"}), make({"type": "batch"})
    for number in range(3):
        x = torch.from_numpy(batch(number))
        torch.testing.assert_close(layer(x), reference(x))


def test_with_wide_limits_it_normalizes_by_the_running_averages() -> None:
    layer: Any = normalize(specification(RAMP | {"r_max": 1e9, "d_max": 1e9}), 16).double()
    for number in range(6):
        x = torch.from_numpy(batch(number))
        mean, deviation = (buffer.clone() for buffer in (layer.running_mean, layer.running_std))
        y = layer(x)
    torch.testing.assert_close(y, (x - mean) / deviation)


def test_the_corrections_are_constants_for_the_gradient() -> None:
    layer = make(RAMP)
    for number in range(3):
        layer(torch.from_numpy(batch(number)))
    x = torch.from_numpy(batch(3)).requires_grad_()
    weights = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    before: Any = copy.deepcopy(layer)
    found = torch.autograd.grad((layer(x) * weights).sum(), x)

    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    normalized = (x - mean) * (variance + EPS).rsqrt()
    r_max = 1 + 2 * ramp(3, 1, 5)
    r = ((variance + EPS).sqrt() / before.running_std).clamp(1 / r_max, r_max).detach()
    expected = torch.autograd.grad((normalized * r * before.weight * weights).sum(), x)  # d is a constant
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"ramp_start": 100, "r_ramp_end": 100}, "r_ramp_end is 100, but ramp_start is 100: give a r_ramp_end above"),
        ({"ramp_start": 100, "d_ramp_end": 99}, "d_ramp_end is 99, but ramp_start is 100: give a d_ramp_end above"),
        ({"ramp_start": 40_000}, "r_ramp_end is 40000, but ramp_start is 40000"),
    ],
)
def test_a_ramp_ends_after_its_start(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        specification({"type": "batch_renorm", **given})
