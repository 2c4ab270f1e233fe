"""GroupNorm by its definition, in differentiable torch operations.

It is the oracle of the tests, the backend of float64 and of machines without a compiler, and what a double backward
differentiates. Statistics are taken in float32, or in float64 for float64 input, and about the mean (two passes).

The mean is kept as an unevaluated sum of two floats, `mean[0] + mean[1]`: one float32 cannot hold the mean of values
near 1e4 to better than 5e-4, and that error would show in every output.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ACTIVATIONS", "group_norm", "group_norm_backward", "statistics"]

ACTIVATIONS = ("relu", "silu", "gelu")


def statistics(x: Tensor, num_groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """The mean, (2, N, G), and the reciprocal standard deviation, (N, G), of every group of `x`, (N, C, *)."""
    grouped = _grouped(x, num_groups).to(_statistics_dtype(x))
    axes = tuple(range(2, grouped.dim()))
    mean = grouped.mean(axes, keepdim=True)
    centred = grouped - mean
    correction = centred.mean(axes, keepdim=True)
    variance = (centred - correction).square().mean(axes)
    return torch.stack((mean.flatten(1), correction.flatten(1))), (variance + eps).rsqrt()


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`activation(group_norm(x) + residual)`, the mean and the reciprocal standard deviation."""
    mean, rstd = statistics(x, num_groups, eps)
    preactivation = _affine(_normalized(x, num_groups, mean, rstd), weight, bias)
    if residual is not None:
        preactivation = preactivation + residual
    return _activate(preactivation, activation).to(x.dtype), mean, rstd


def group_norm_backward(
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `x`, `weight`, `bias` and `residual`, the parameters' in the dtype of the statistics."""
    normalized = _normalized(x, num_groups, mean, rstd)
    preactivation = _affine(normalized, weight, bias)
    if residual is not None:
        preactivation = preactivation + residual
    dpre = dy.to(preactivation.dtype) * _derivative(preactivation, activation)

    axes = (0, *range(2, x.dim()))
    dbias = dpre.sum(axes)
    dweight = (dpre * normalized).sum(axes)

    dnormalized = _grouped(dpre if weight is None else dpre * _per_channel(weight, dpre), num_groups)
    grouped = _grouped(normalized, num_groups)
    axes = tuple(range(2, grouped.dim()))
    centred = dnormalized - dnormalized.mean(axes, keepdim=True)
    projected = grouped * (dnormalized * grouped).mean(axes, keepdim=True)
    dx = ((centred - projected) * _per_group(rstd, grouped)).flatten(1, 2)
    return dx.to(x.dtype), dweight, dbias, dpre.to(x.dtype)


def _statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype


def _grouped(x: Tensor, num_groups: int) -> Tensor:
    return x.reshape(x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:])


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.to(x.dtype).reshape(1, -1, *(1,) * (x.dim() - 2))


def _per_group(statistic: Tensor, grouped: Tensor) -> Tensor:
    return statistic.reshape(*statistic.shape, *(1,) * (grouped.dim() - 2))


def _normalized(x: Tensor, num_groups: int, mean: Tensor, rstd: Tensor) -> Tensor:
    grouped = _grouped(x, num_groups).to(rstd.dtype)
    centred = grouped - _per_group(mean[0], grouped) - _per_group(mean[1], grouped)
    return (centred * _per_group(rstd, grouped)).flatten(1, 2)


def _affine(normalized: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        normalized = normalized * _per_channel(weight, normalized)
    if bias is not None:
        normalized = normalized + _per_channel(bias, normalized)
    return normalized


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
            density = (preactivation.square() / -2).exp() * 0.3989422804014327
            cumulative: Tensor = torch.special.ndtr(preactivation)
            return cumulative + preactivation * density
    return torch.ones_like(preactivation)
