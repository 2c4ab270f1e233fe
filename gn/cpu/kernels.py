"""The CPU backend: prepares the arguments of the C++ kernels, allocates their results, and calls them."""

import struct

import torch
from torch import Tensor

from gn import layout
from gn.call import Call, Gradients, Result
from gn.cpu import loader

__all__ = ["ACTIVATIONS", "CODES", "ELEMENTS", "backward", "failure", "forward", "library"]

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The code of each supported dtype in `problem.h`."""

ACTIVATIONS = {None: 0, "relu": 1, "silu": 2, "gelu": 3}
"""The code of each activation in `problem.h`."""

ELEMENTS = {torch.float32: "float", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
"""The C++ element type of each supported dtype."""

_PROBLEM = struct.Struct("7qd12q")


def library(dtype: torch.dtype) -> loader.Kernels | None:
    """Return the kernels for `dtype`, compiled on first use; None if none exist or they cannot be compiled."""
    if (element := ELEMENTS.get(dtype)) is None:
        return None
    found = loader.library(element)
    return found if isinstance(found, loader.Kernels) else None


def failure(dtype: torch.dtype) -> str:
    """Return why the kernels for `dtype`, one of `ELEMENTS`, cannot be compiled or loaded."""
    return str(loader.library(ELEMENTS[dtype]))


def forward(call: Call) -> Result:
    """Compute the output and the statistics; see `gn.backends.Backend.forward`."""
    x = call.x
    y = torch.empty_like(x)
    statistics = x.new_empty((3, x.shape[0], call.num_groups), dtype=torch.float32)
    _run(call, y, statistics)
    return y, statistics


def backward(call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool) -> Gradients:
    """Compute the gradients; see `gn.backends.Backend.backward`."""
    x = call.x
    dx = torch.empty_like(x) if needs_dx else None
    dresidual = None if call.residual is None else torch.empty_like(x)
    dweight = x.new_empty(x.shape[1], dtype=call.parameter_dtype())
    dbias = torch.empty_like(dweight)
    _run(call, None, statistics, (layout.like(dy, x), None, dx, dweight, dbias, dresidual))
    return _or_empty(dx, x), dweight, dbias, _or_empty(dresidual, x)


def _or_empty(gradient: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty(0) if gradient is None else gradient


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _run(call: Call, y: Tensor | None, statistics: Tensor, gradients: tuple[Tensor | None, ...] = (None,) * 6) -> None:
    """Call the kernel; `gradients` are the fields of `Problem` from `dy` on, given in a backward pass only."""
    x, num_groups, weight, bias, eps, residual, activation = call
    weight = None if weight is None else weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else layout.like(residual, x)
    elements = x.numel()
    channels = x.shape[1]
    samples = x.shape[0]
    problem = _PROBLEM.pack(
        CODES[call.parameter_dtype()],
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
    kernels = loader.library(ELEMENTS[x.dtype])
    assert isinstance(kernels, loader.Kernels)
    channels_innermost = elements == samples * channels or not x.is_contiguous()
    (kernels.channels_last if channels_innermost else kernels.contiguous)(problem)
