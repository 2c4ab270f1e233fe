"""GroupNorm by its definition, in differentiable torch operations.

It is the oracle of the tests, the backend of float64 and of machines without a compiler, and what a double backward
differentiates. Statistics are taken in float32, or in float64 for float64 input, and about the mean (two passes).

The mean is kept as an unevaluated sum of two numbers: one float32 cannot hold the mean of values near 1e4 to better
than 5e-4, and that error would show in every output.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gn import layout

__all__ = ["ACTIVATIONS", "group_norm", "group_norm_backward", "statistics"]

ACTIVATIONS = ("relu", "silu", "gelu")


def statistics(x: Tensor, num_groups: int, eps: float) -> Tensor:
    """Of every group of `x`, (N, C, *), the mean, its correction, and 1 / sqrt(variance + eps): (3, N, G)."""
    grouped = _grouped(x, num_groups).to(layout.statistics_dtype(x))
    axes = tuple(range(2, grouped.dim()))
    mean = grouped.mean(axes, keepdim=True)
    centred = grouped - mean
    correction = centred.mean(axes, keepdim=True)
    variance = (centred - correction).square().mean(axes)
    return torch.stack((mean.flatten(1), correction.flatten(1), (variance + eps).rsqrt()))


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """`activation(group_norm(x) + residual)`, and the statistics."""
    found = statistics(x, num_groups, eps)
    preactivation = _affine(_normalized(x, num_groups, found), weight, bias)
    if residual is not None:
        preactivation = preactivation + residual
    return _activate(preactivation, activation).to(x.dtype), found


def group_norm_backward(
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    needs_dx: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `x` (empty unless asked for), `weight`, `bias` and `residual` (empty where there is none).

    Of a ReLU, `residual` is what came out instead: all that its gradient needs to know of what went in is the sign.
    """
    normalized = _normalized(x, num_groups, statistics)
    preactivation = _affine(normalized, weight, bias)
    if residual is not None:
        preactivation = residual.to(preactivation.dtype) if activation == "relu" else preactivation + residual
    dpre = dy.to(preactivation.dtype) * _derivative(preactivation, activation)
    axes = (0, *range(2, x.dim()))
    dtype = layout.parameter_dtype(x, weight, bias)
    return (
        _project(dpre, normalized, weight, statistics[2]).to(x.dtype) if needs_dx else x.new_empty(0),
        (dpre * normalized).sum(axes).to(dtype),
        dpre.sum(axes).to(dtype),
        x.new_empty(0) if residual is None else dpre.to(x.dtype),
    )


def _grouped(x: Tensor, num_groups: int) -> Tensor:
    return x.reshape(x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:])


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.to(x.dtype).reshape(1, -1, *(1,) * (x.dim() - 2))


def _per_group(statistic: Tensor, grouped: Tensor) -> Tensor:
    return statistic.reshape(*statistic.shape, *(1,) * (grouped.dim() - 2))


def _normalized(x: Tensor, num_groups: int, statistics: Tensor) -> Tensor:
    grouped = _grouped(x, num_groups).to(statistics.dtype)
    mean, correction, rstd = (_per_group(statistic, grouped) for statistic in statistics)
    return ((grouped - mean - correction) * rstd).reshape(x.shape)


def _affine(normalized: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        normalized = normalized * _per_channel(weight, normalized)
    if bias is not None:
        normalized = normalized + _per_channel(bias, normalized)
    return normalized


def _project(dpre: Tensor, normalized: Tensor, weight: Tensor | None, rstd: Tensor) -> Tensor:
    """The gradient of `x`: what the mean and the variance take away is the part along 1 and along x̂."""
    upstream = _grouped(dpre if weight is None else dpre * _per_channel(weight, dpre), rstd.shape[1])
    normalized = _grouped(normalized, rstd.shape[1])
    axes = tuple(range(2, upstream.dim()))
    along = normalized * (upstream * normalized).mean(axes, keepdim=True)
    return ((upstream - upstream.mean(axes, keepdim=True) - along) * _per_group(rstd, upstream)).reshape(dpre.shape)


def _activate(preactivation: Tensor, activation: str | None) -> Tensor:
    match activation:
        case "relu":
            return F.relu(preactivation)
        case "silu":
            return F.silu(preactivation)
        case "gelu":
            return F.gelu(preactivation)
    return preactivation


def _derivative(preactivation: Tensor, activation: str | None) -> Tensor:
    match activation:
        case "relu":
            # Not `> 0`: where the input is NaN, torch's ReLU passes the gradient on.
            return (~(preactivation <= 0)).to(preactivation.dtype)
        case "silu":
            sigmoid = preactivation.sigmoid()
            return sigmoid * (1 + preactivation * (1 - sigmoid))
        case "gelu":
            # Not exp(): in one process of five, half of a float32 result had only four digits (MKL, it seems).
            density = (preactivation.square() * -0.7213475204444817).exp2() * 0.3989422804014327
            cumulative: Tensor = torch.special.ndtr(preactivation)
            return cumulative + preactivation * density
    return torch.ones_like(preactivation)
