"""GroupNorm by its definition, in differentiable torch operations.

This module is the oracle of the tests, the backend for float64 and for machines without a compiler, and the function
that torch differentiates in a double backward. Statistics are computed in float32 (float64 for float64 input) in two
passes: first the mean, then the variance about it.

The mean is kept as an unevaluated sum of two numbers. A single float32 cannot represent the mean of values near 1e4 to
better than 5e-4, and that error would appear in every output.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gn import layout
from gn.call import Call, Gradients, Result

__all__ = ["ACTIVATIONS", "activate", "backward", "forward", "gradients", "group_norm", "statistics"]

ACTIVATIONS = ("relu", "silu", "gelu")


def forward(call: Call) -> Result:
    """Compute the output, in the layout of `call.x`, and the statistics; see `gn.backends.Backend.forward`."""
    y, found = group_norm(call)
    return layout.like(y, call.x), found


def backward(call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool) -> Gradients:
    """Compute the gradients, in the layout of `call.x`; see `gn.backends.Backend.backward`."""
    dx, dweight, dbias, dresidual = gradients(call, dy, statistics, needs_dx)
    if needs_dx:
        dx = layout.like(dx, call.x)
    if call.residual is not None:
        dresidual = layout.like(dresidual, call.x)
    return dx, dweight, dbias, dresidual


def statistics(call: Call) -> Tensor:
    """Return the mean, its correction and 1 / sqrt(variance + eps) of every group of `call.x`: (3, N, G)."""
    grouped = _grouped(call.x, call.num_groups).to(layout.statistics_dtype(call.x))
    axes = tuple(range(2, grouped.dim()))
    mean = grouped.mean(axes, keepdim=True)
    centred = grouped - mean
    correction = centred.mean(axes, keepdim=True)
    variance = (centred - correction).square().mean(axes)
    # Not 0 where the variance overflows: a group that diverges would look like a constant one.
    rstd = (variance + call.eps).rsqrt().masked_fill(variance.isinf(), torch.nan)
    return torch.stack((mean.flatten(1), correction.flatten(1), rstd))


def group_norm(call: Call) -> Result:
    """Return the output and the statistics (Wu and He, 2018, arXiv:1803.08494, section 3).

    torch can differentiate and transform this function. `call.x` and the output may be in any layout.
    """
    found = statistics(call)
    preactivation = _affine(_normalized(call, found), call)
    if call.residual is not None:
        preactivation = preactivation + call.residual
    return activate(preactivation, call.activation).to(call.x.dtype), found


def gradients(call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool, *, constant: bool = False) -> Gradients:
    """Return the gradients of `x`, `weight`, `bias` and `residual`.

    torch can differentiate and transform this function. `call.x` and the results may be in any layout.

    Args:
        call: The arguments, with `residual` as `Call.saved_residual` returned it.
        dy: (N, C, *), the gradient of the output.
        statistics: (3, N, G).
        needs_dx: Whether to compute the gradient of `x`.
        constant: The statistics do not depend on `x`.

    Returns:
        (N, C, *), or empty if not requested; (C,) twice, also without a weight and a bias; (N, C, *), or empty without
        a residual.
    """
    x, _, weight, _, _, residual, activation = call
    normalized = _normalized(call, statistics)
    preactivation = _affine(normalized, call)
    if residual is not None:
        preactivation = residual.to(preactivation.dtype) if activation == "relu" else preactivation + residual
    dpre = dy.to(preactivation.dtype) * _derivative(preactivation, activation)
    axes = (0, *range(2, x.dim()))
    dtype = call.parameter_dtype()
    dx = x.new_empty(0)
    if needs_dx:
        dx = _project(dpre, normalized, weight, statistics[2], constant).to(x.dtype)
    return (
        dx,
        (dpre * normalized).sum(axes).to(dtype),
        dpre.sum(axes).to(dtype),
        x.new_empty(0) if residual is None else dpre.to(x.dtype),
    )


def activate(preactivation: Tensor, activation: str | None) -> Tensor:
    """Return the activation of a tensor, or the tensor itself without one."""
    match activation:
        case "relu":
            return F.relu(preactivation)
        case "silu":
            return F.silu(preactivation)
        case "gelu":
            return F.gelu(preactivation)
    return preactivation


def _grouped(x: Tensor, num_groups: int) -> Tensor:
    return x.reshape(x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:])


def _per_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.to(x.dtype).reshape(1, -1, *(1,) * (x.dim() - 2))


def _per_group(statistic: Tensor, grouped: Tensor) -> Tensor:
    return statistic.reshape(*statistic.shape, *(1,) * (grouped.dim() - 2))


def _normalized(call: Call, statistics: Tensor) -> Tensor:
    grouped = _grouped(call.x, call.num_groups).to(statistics.dtype)
    mean, correction, rstd = (_per_group(statistic, grouped) for statistic in statistics.unbind())
    return ((grouped - mean - correction) * rstd).reshape(call.x.shape)


def _affine(normalized: Tensor, call: Call) -> Tensor:
    if call.weight is not None:
        normalized = normalized * _per_channel(call.weight, normalized)
    if call.bias is not None:
        normalized = normalized + _per_channel(call.bias, normalized)
    return normalized


def _project(dpre: Tensor, normalized: Tensor, weight: Tensor | None, rstd: Tensor, constant: bool) -> Tensor:
    """The gradient of `x`: subtract from γ dz its components along 1 and along x̂, then scale by rstd."""
    upstream = _grouped(dpre if weight is None else dpre * _per_channel(weight, dpre), rstd.shape[1])
    if constant:
        return (upstream * _per_group(rstd, upstream)).reshape(dpre.shape)
    normalized = _grouped(normalized, rstd.shape[1])
    axes = tuple(range(2, upstream.dim()))
    along = normalized * (upstream * normalized).mean(axes, keepdim=True)
    return ((upstream - upstream.mean(axes, keepdim=True) - along) * _per_group(rstd, upstream)).reshape(dpre.shape)


def _derivative(preactivation: Tensor, activation: str | None) -> Tensor:
    match activation:
        case "relu":
            # Not `> 0`: torch's ReLU passes the gradient through where its input is NaN.
            return (~(preactivation <= 0)).to(preactivation.dtype)
        case "silu":
            sigmoid = preactivation.sigmoid()
            return sigmoid * (1 + preactivation * (1 - sigmoid))
        case "gelu":
            # Not exp(): in one of five processes half of a float32 result had only four correct digits, presumably
            # because of MKL.
            density = (preactivation.square() * -0.7213475204444817).exp2() * 0.3989422804014327
            cumulative: Tensor = torch.special.ndtr(preactivation)
            return cumulative + preactivation * density
    return torch.ones_like(preactivation)
