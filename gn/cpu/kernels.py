"""Calls the kernels: lays out what they read, allocates what they write."""

import struct

import torch
from torch import Tensor

from gn import layout
from gn.cpu import loader

__all__ = ["ACTIVATIONS", "CODES", "ELEMENTS", "backward", "forward", "library"]

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ACTIVATIONS = {None: 0, "relu": 1, "silu": 2, "gelu": 3}
ELEMENTS = {torch.float32: "float", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
_PROBLEM = struct.Struct("7qd12q")


def library(dtype: torch.dtype) -> loader.Kernels | None:
    """The kernels for `dtype`, if there are any: compiles them, the first time."""
    element = ELEMENTS.get(dtype)
    return None if element is None else loader.library(element)


def forward(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """See `gn.reference.group_norm`. `x`, (N, C, *), is dense, with the positions or the channels innermost."""
    y = torch.empty_like(x)
    statistics = x.new_empty((3, x.shape[0], num_groups), dtype=torch.float32)
    if residual is not None:
        residual = layout.like(residual, x)
    _call(x, num_groups, weight, bias, eps, activation, residual, y, statistics)
    return y, statistics


def backward(
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
    """See `gn.reference.group_norm_backward`. A gradient that is not asked for is empty."""
    dy = layout.like(dy, x)
    dx = torch.empty_like(x) if needs_dx else None
    dresidual = None
    if residual is not None:
        residual, dresidual = layout.like(residual, x), torch.empty_like(x)
    dweight = x.new_empty(x.shape[1], dtype=layout.parameter_dtype(x, weight, bias))
    dbias = torch.empty_like(dweight)
    gradients = dy, None, dx, dweight, dbias, dresidual
    _call(x, num_groups, weight, bias, 0.0, activation, residual, None, statistics, gradients)
    return _given(dx, x), dweight, dbias, _given(dresidual, x)


def _given(gradient: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty(0) if gradient is None else gradient


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _call(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
    y: Tensor | None,
    statistics: Tensor,
    gradients: tuple[Tensor | None, ...] = (None,) * 6,
) -> None:
    weight = None if weight is None else weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    elements = x.numel()
    channels = x.shape[1]
    samples = x.shape[0]
    problem = _PROBLEM.pack(
        CODES[layout.parameter_dtype(x, weight, bias)],
        ACTIVATIONS[activation],
        torch.get_num_threads(),
        samples,
        channels,
        num_groups,
        elements // (samples * channels),
        eps,
        x.data_ptr(),
        _address(weight),
        _address(bias),
        _address(residual),
        _address(y),
        statistics.data_ptr(),
        *map(_address, gradients),
    )
    kernels = library(x.dtype)
    assert kernels is not None
    channels_innermost = elements == samples * channels or not x.is_contiguous()
    (kernels.channels_last if channels_innermost else kernels.contiguous)(problem)
