"""GroupNorm in float64 NumPy, independent of torch, and the tolerances of all tests."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# The largest error, relative to the largest value, of a result rounded once to the dtype.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(z / 2))


ACTIVATIONS: dict[str | None, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    None: (lambda z: z, np.ones_like),
    "relu": (lambda z: np.where(z <= 0, 0, z), lambda z: np.where(z <= 0, 0.0, 1.0)),
    "silu": (lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z)))),
    "gelu": (
        lambda z: z * 0.5 * (1 + _erf(z / math.sqrt(2))),
        lambda z: 0.5 * (1 + _erf(z / math.sqrt(2))) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    ),
}


def float64(x: Tensor | None) -> np.ndarray | None:
    return None if x is None else x.detach().double().cpu().contiguous().numpy()


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    activation: str | None = None,
    dy: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """The result `y`, and, given `dy`, the gradients `x`, `weight`, `bias` and `residual`.

    With "terms of " before its name, the largest size of the terms that a gradient is the sum of.
    """
    data = float64(x)
    shape, channels = data.shape, data.shape[1]
    gamma = np.ones(channels) if weight is None else float64(weight)
    beta = np.zeros(channels) if bias is None else float64(bias)
    per_channel = (1, channels) + (1,) * (data.ndim - 2)
    gamma, beta = gamma.reshape(per_channel), beta.reshape(per_channel)
    rows = (shape[0], num_groups, -1)

    grouped = data.reshape(rows) if data.size else data.reshape(shape[0], num_groups, 0)
    centred = grouped - grouped.mean(2, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(2, keepdims=True) + eps)
    normalized = (centred * rstd).reshape(shape)
    z = gamma * normalized + beta + (0 if residual is None else float64(residual))
    value, derivative = ACTIVATIONS[activation]
    results = {"y": value(z)}
    if dy is None:
        return results

    dz = float64(dy) * derivative(z)
    axes = (0, *range(2, data.ndim))
    upstream, unit = (gamma * dz).reshape(rows), normalized.reshape(rows)
    dx = rstd * (upstream - upstream.mean(2, keepdims=True) - unit * (upstream * unit).mean(2, keepdims=True))
    return results | {
        "x": dx.reshape(shape),
        "weight": (dz * normalized).sum(axes),
        "bias": dz.sum(axes),
        "residual": dz,
        "terms of x": (rstd * np.abs(upstream)).max(initial=0),
        "terms of weight": np.abs(dz * normalized).sum(axes).max(initial=0),
        "terms of bias": np.abs(dz).sum(axes).max(initial=0),
        "terms of residual": np.abs(dz).max(initial=0),
    }


def error(actual: Tensor, expected: np.ndarray, scale: float | None = None) -> float:
    """The largest error, relative to `scale`, or else to the largest expected value."""
    assert tuple(actual.shape) == expected.shape
    if not expected.size:
        return 0.0
    if scale is None:
        scale = float(np.abs(expected).max())
    return float(np.abs(float64(actual) - expected).max() / (scale + 1e-30))
