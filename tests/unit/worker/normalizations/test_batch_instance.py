"""Batch-instance normalization is gate × batch + (1 - gate) × instance normalization."""

import numpy as np
import torch

from tests.unit.worker.normalizations.definitions import Array, batch, check, specification
from worker.normalizations.layers import normalize

EPS = 1e-5


def mixed(x: Array, mean: Array, variance: Array, gate: Array) -> Array:
    gate = gate * np.sqrt(10)  # a ten times larger learning rate
    by_batch = (x - mean) / np.sqrt(variance + EPS)
    by_image = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + EPS)
    return np.asarray(gate * by_batch + (1 - gate) * by_image)


def training(x: Array, _: list[Array], gate: Array) -> Array:
    return mixed(x, x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True), gate)


def evaluation(x: Array, history: list[Array], gate: Array) -> Array:
    mean, variance = np.zeros((1, 16, 1, 1)), np.ones((1, 16, 1, 1))
    for before in history:
        mean = 0.9 * mean + 0.1 * before.mean((0, 2, 3), keepdims=True)
        variance = 0.9 * variance + 0.1 * before.var((0, 2, 3), keepdims=True)
    return mixed(x, mean, variance, gate)


def test_the_definition() -> None:
    check({"type": "batch_instance"}, training, evaluation)


def test_a_gate_that_a_step_moved_out_of_its_limits_returns_and_learns() -> None:
    layer = normalize(specification({"type": "batch_instance"}), 16).double()
    gate = layer.get_parameter("gate")
    torch.testing.assert_close(gate * 10**0.5, torch.ones_like(gate), msg="it starts as batch normalization")
    with torch.no_grad():
        gate.copy_(torch.linspace(-1, 2, 16).view(16, 1, 1))
    before = gate.detach().clone()
    layer.eval()
    x = torch.from_numpy(batch(0))
    evaluated = layer(x)
    assert torch.equal(gate.detach(), before), "evaluation changes nothing"
    layer.train()
    (layer(x) * x.flip(0)).sum().backward()
    assert torch.equal(gate.detach(), before.clamp(0, 1 / 10**0.5))
    assert gate.grad is not None
    assert gate.grad.abs().min() > 0
    fresh = normalize(specification({"type": "batch_instance"}), 16).double().eval()
    fresh.get_parameter("gate").data.copy_(gate.detach())
    torch.testing.assert_close(fresh(x), evaluated)
