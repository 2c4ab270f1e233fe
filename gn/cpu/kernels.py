"""The CPU backend: prepares the arguments of the C++ kernels, allocates their results, and calls them."""

import struct
from collections.abc import Callable

import torch
from torch import Tensor

from gn import layout
from gn.batch_call import BatchCall
from gn.call import Call, Gradients, Result
from gn.cpu import loader

__all__ = ["ACTIVATIONS", "CODES", "ELEMENTS", "backward", "failure", "forward", "gradients", "library", "run"]

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The code of each supported dtype in `problem.h`."""

ACTIVATIONS = {None: 0, "relu": 1, "silu": 2, "gelu": 3}
"""The code of each activation in `problem.h`."""

ELEMENTS = {torch.float32: "float", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
"""The C++ element type of each supported dtype."""

_PROBLEM = struct.Struct("10q2d14q")


def library(dtype: torch.dtype, normalization: loader.Normalization = "group_norm") -> loader.Kernels | None:
    """Return the kernels for `dtype`, compiled on first use; None if none exist or they cannot be compiled."""
    if (element := ELEMENTS.get(dtype)) is None:
        return None
    found = loader.library(normalization, element)
    return found if isinstance(found, loader.Kernels) else None


def failure(dtype: torch.dtype, normalization: loader.Normalization = "group_norm") -> str:
    """Return why the kernels for `dtype`, one of `ELEMENTS`, cannot be compiled or loaded."""
    return str(loader.library(normalization, ELEMENTS[dtype]))


def forward(call: Call) -> Result:
    """Compute the output and the statistics; see `gn.backends.Backend.forward`."""
    x = call.x
    y = torch.empty_like(x)
    statistics = x.new_empty((3, x.shape[0], call.num_groups), dtype=torch.float32)
    _run(call, y, statistics)
    return y, statistics


def backward(call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool) -> Gradients:
    """Compute the gradients; see `gn.backends.Backend.backward`."""
    return gradients(call, needs_dx, lambda *results: _run(call, None, statistics, (layout.like(dy, call.x), *results)))


def gradients(call: Call | BatchCall, needs_dx: bool, run: Callable[..., None]) -> Gradients:
    """Return the gradients that `run` writes.

    Args:
        call: The arguments.
        needs_dx: Whether to compute the gradient of `x`.
        run: Called with the fields of `Problem` from `other_dy` to `dresidual`.
    """
    x = call.x
    dx = torch.empty_like(x) if needs_dx else None
    dresidual = None if call.residual is None else torch.empty_like(x)
    dweight = x.new_empty(x.shape[1], dtype=call.parameter_dtype())
    dbias = torch.empty_like(dweight)
    run(None, dx, dweight, dbias, dresidual)
    return _or_empty(dx, x), dweight, dbias, _or_empty(dresidual, x)


def run(
    kernels: loader.Kernels,
    call: Call | BatchCall,
    shape: tuple[int, ...],
    momentum: float,
    y: Tensor | None,
    statistics: Tensor,
    gradients: tuple[Tensor | None, ...] = (None,) * 6,
    running: tuple[Tensor | None, ...] = (None, None),
) -> None:
    """Call a kernel.

    Args:
        kernels: The kernels of the normalization for the dtype of `x`.
        call: The arguments, with `x` contiguous or channels-last.
        shape: The fields of `Problem` from `groups` on that are integers, without `positions`.
        momentum: The field of that name.
        y: The output, given in a forward pass only.
        statistics: (3, sets, groups), contiguous.
        gradients: The fields from `dy` to `dresidual`, given in a backward pass only.
        running: The running averages, if the kernel needs them.
    """
    x, weight, bias, residual = call.x, call.weight, call.bias, call.residual
    weight = None if weight is None else weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else layout.like(residual, x)
    elements = x.numel()
    channels = x.shape[1]
    samples = x.shape[0]
    groups, *sets = shape
    problem = _PROBLEM.pack(
        CODES[call.parameter_dtype()],
        ACTIVATIONS[call.activation],
        torch.get_num_threads(),
        samples,
        channels,
        groups,
        elements // (samples * channels),
        *sets,
        call.eps,
        momentum,
        x.data_ptr(),
        _address(weight),
        _address(bias),
        _address(residual),
        _address(y),
        statistics.data_ptr(),
        *map(_address, gradients),
        *map(_address, running),
    )
    channels_innermost = elements == samples * channels or not x.is_contiguous()
    (kernels.channels_last if channels_innermost else kernels.contiguous)(problem)


def _or_empty(gradient: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty(0) if gradient is None else gradient


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _run(call: Call, y: Tensor | None, statistics: Tensor, gradients: tuple[Tensor | None, ...] = (None,) * 6) -> None:
    kernels = library(call.x.dtype)
    assert kernels is not None
    # A set is a group of channels of one sample.
    run(kernels, call, (call.num_groups, call.x.shape[0], 1, 1), 0.0, y, statistics, gradients)
