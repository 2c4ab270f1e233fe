"""Calls the kernels: lays out what they read, allocates what they write."""

import struct

import torch
from torch import Tensor

from gn import layout
from gn.cpu import loader

__all__ = ["available", "backward", "forward"]

_ELEMENTS = {torch.float32: "float", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
_PARAMETERS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ACTIVATIONS = {None: 0, "relu": 1, "silu": 2, "gelu": 3}
_PROBLEM = struct.Struct("8qd11q")

# Below this many elements, waking a second thread takes longer than the work.
_ELEMENTS_PER_THREAD = 1 << 14


def available(dtype: torch.dtype) -> bool:
    """Whether there are kernels for `dtype`: compiles them, the first time."""
    return dtype in _ELEMENTS and loader.library(_ELEMENTS[dtype]) is not None


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
    weight, bias = _contiguous(weight), _contiguous(bias)
    if residual is not None:
        residual = layout.like(residual, x)
    _call(x, num_groups, weight, bias, eps, activation, (residual, y, statistics, None, None, None, None, None))
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
    weight, bias = _contiguous(weight), _contiguous(bias)
    residual = None if residual is None else layout.like(residual, x)
    dx = torch.empty_like(x) if needs_dx else None
    dresidual = None if residual is None else torch.empty_like(x)
    dweight = x.new_empty(x.shape[1], dtype=layout.parameter_dtype(x, weight, bias))
    dbias = torch.empty_like(dweight)
    written = (dx, dweight, dbias, dresidual)
    _call(x, num_groups, weight, bias, 0.0, activation, (residual, None, statistics, dy, *written))
    nothing = x.new_empty(0)
    return nothing if dx is None else dx, dweight, dbias, nothing if dresidual is None else dresidual


def _contiguous(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _call(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    others: tuple[Tensor | None, ...],
) -> None:
    samples, channels = x.shape[:2]
    elements = x.numel()
    parameter = weight if weight is not None else bias
    problem = _PROBLEM.pack(
        0 if parameter is None else _PARAMETERS[parameter.dtype],
        _ACTIVATIONS[activation],
        layout.channels_innermost(x) or elements == samples * channels,
        min(torch.get_num_threads(), 1 + elements // _ELEMENTS_PER_THREAD),
        samples,
        channels,
        num_groups,
        elements // (samples * channels),
        eps,
        *(0 if tensor is None else tensor.data_ptr() for tensor in (x, weight, bias, *others)),
    )
    kernels = loader.library(_ELEMENTS[x.dtype])
    assert kernels is not None
    kernels.gn_group_norm(problem)
