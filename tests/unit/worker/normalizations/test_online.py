"""Online normalization: one image after the other, forward and backward (Chiley et al. 2019, algorithm 1)."""

from typing import Any

import numpy as np
import torch

from tests.unit.worker.normalizations.definitions import Array, batch, check, specification
from worker.normalizations.layers import normalize

EPS = 1e-5
SHORT: dict[str, Any] = {"type": "online", "alpha_forward": 0.8, "alpha_backward": 0.7}


def forward(images: Array, mean: Array, variance: Array, kept: float) -> tuple[Array, Array, Array, Array]:
    outputs, scales = [], []
    for image in images:
        scale = np.sqrt(variance + EPS)
        outputs.append((image - mean) / scale)
        scales.append(scale)
        of_image = image.mean((1, 2), keepdims=True)
        variance = (
            kept * variance + (1 - kept) * image.var((1, 2), keepdims=True) + kept * (1 - kept) * (of_image - mean) ** 2
        )
        mean = kept * mean + (1 - kept) * of_image
    return np.stack(outputs), np.stack(scales), mean, variance


def layer_scaled(y: Array) -> Array:
    return np.asarray(y / np.sqrt((y**2).mean((1, 2, 3), keepdims=True) + EPS))


def start() -> tuple[Array, Array]:
    return np.zeros((16, 1, 1)), np.ones((16, 1, 1))


def after(history: list[Array]) -> tuple[Array, Array]:
    mean, variance = start()
    for x in history:
        _, _, mean, variance = forward(x, mean, variance, 0.8)
    return mean, variance


def training(x: Array, history: list[Array]) -> Array:
    y, _, _, _ = forward(x, *after(history), 0.8)
    return layer_scaled(y)


def evaluation(x: Array, history: list[Array]) -> Array:
    mean, variance = after(history)
    return layer_scaled((x - mean) / np.sqrt(variance + EPS))


def test_the_definition() -> None:
    check(SHORT, training, evaluation)


def test_the_backward_pass_is_the_process_of_the_paper() -> None:
    layer: Any = normalize(specification(SHORT | {"affine": False}), 16).double()
    removed, kept = 1 - 0.7, 0.8
    u, v = np.zeros((16, 1, 1)), np.zeros((16, 1, 1))
    mean, variance = start()
    for number in range(3):
        x = torch.from_numpy(batch(number)).requires_grad_()
        gradient = torch.from_numpy(batch(20 + number))
        (found,) = torch.autograd.grad(layer(x), x, gradient)
        y, scales, mean, variance = forward(batch(number), mean, variance, kept)
        # The layer scaling has its own derivative.
        of_y = torch.from_numpy(y).requires_grad_()
        scaled = of_y / (of_y.square().mean((1, 2, 3), keepdim=True) + EPS).sqrt()
        of_outputs = torch.autograd.grad(scaled, of_y, gradient)[0].numpy()
        for image in range(4):
            along = of_outputs[image] - removed * v * y[image]
            v = v + (along * y[image]).mean((1, 2), keepdims=True)
            along = along / scales[image]
            of_x = along - removed * u
            u = u + of_x.mean((1, 2), keepdims=True)
            np.testing.assert_allclose(found[image].numpy(), of_x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(layer.u.numpy(), u, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(layer.v.numpy(), v, rtol=1e-9, atol=1e-12)
