"""The conversion and the checks of the arguments of `group_norm`."""

import operator
from typing import Any

import torch
from torch import Tensor

from gn.batch_call import BatchCall
from gn.call import Call
from gn.reference import ACTIVATIONS

__all__ = ["check", "check_activation", "check_batch", "integer", "number", "positive"]

_PARAMETER_DTYPES = {
    torch.float32: (torch.float32,),
    torch.bfloat16: (torch.bfloat16, torch.float32),
    torch.float16: (torch.float16, torch.float32),
    torch.float64: (torch.float64,),
}
"""The dtypes that weight and bias may have, by each dtype that x may have."""


def integer(name: str, value: Any) -> Any:
    """Return the int of an integer of any type that torch accepts: one of NumPy, a tensor without dimensions.

    A symbolic integer is returned as it is.
    """
    if isinstance(value, torch.SymInt):
        return value
    try:
        if isinstance(value, bool) or (isinstance(value, Tensor) and value.dim() > 0):
            raise TypeError
        operator.index(value)  # refuses what int() would round
        return int(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None


def number(name: str, value: Any) -> Any:
    """Return the float of a number of any type that torch accepts: one of NumPy, a tensor without dimensions.

    A symbolic number is returned as it is.
    """
    if isinstance(value, torch.SymFloat):
        return value
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a float, got {value!r}") from None


def positive(name: str, value: Any) -> Any:
    """Return the int of a positive integer of any type that torch accepts."""
    value = integer(name, value)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


def check(call: Call) -> None:
    """Raise the error of `group_norm` for a call that is not valid."""
    x, num_groups, weight, bias, _, residual, activation = call
    # At batch 2 the checks take a tenth of the time of a call: each property, which crosses into C++, is read once.
    shape, dtype, device = x.shape, x.dtype, x.device
    if len(shape) < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {len(shape)}")
    if num_groups == 0:
        raise ZeroDivisionError("num_groups must be at least 1, got 0")
    if num_groups < 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    channels = shape[1]
    if channels % num_groups != 0:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, "
            f"but got input of shape {list(shape)} and num_groups={num_groups}"
        )
    if x.numel() == num_groups:
        size = [channels // num_groups, num_groups, *shape[2:]]
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    if dtype not in _PARAMETER_DTYPES:
        raise NotImplementedError(f"group_norm: x must be float32, bfloat16, float16 or float64, got {dtype}")
    _check_layout("x", x)
    if weight is not None:
        _check_parameter("weight", weight, shape, dtype, device)
    if bias is not None:
        _check_parameter("bias", bias, shape, dtype, device)
        if weight is not None and weight.dtype != bias.dtype:
            raise RuntimeError(f"mixed dtype: expected bias of the dtype of weight, {weight.dtype}, got {bias.dtype}")
    if residual is not None:
        _check_residual("group_norm", residual, shape, device)
    check_activation(activation)


def check_batch(call: BatchCall) -> None:
    """Raise the error of `batch_norm` for the arguments that `torch.nn.functional.batch_norm` does not have."""
    if call.x.dim() < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {call.x.dim()}")
    if call.ghost_batch_size is not None:
        positive("ghost_batch_size", call.ghost_batch_size)
    if call.residual is not None:
        _check_residual("batch_norm", call.residual, call.x.shape, call.x.device)
    check_activation(call.activation)


def check_activation(activation: Any) -> None:
    """Raise ValueError for an unknown activation."""
    if activation is not None and activation not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"activation must be None or one of {known}, got {activation!r}")


def _check_residual(function: str, residual: Tensor, shape: torch.Size, device: torch.device) -> None:
    """Check the residual for an `x` of this shape and device."""
    _check_layout("residual", residual, function)
    if residual.shape != shape:
        raise ValueError(f"residual must have the shape of x, {list(shape)}, got {list(residual.shape)}")
    if residual.device != device:
        raise RuntimeError(f"Expected residual on the device of x, {device}, got {residual.device}")


def _check_parameter(name: str, parameter: Tensor, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
    """Check the weight or the bias for an `x` of this shape, dtype and device."""
    if not isinstance(parameter, Tensor):
        raise TypeError(f"group_norm: {name} must be a Tensor, got {parameter!r}")
    _check_layout(name, parameter)
    if parameter.shape != (shape[1],):
        raise RuntimeError(
            f"Expected {name} to be a vector of size equal to the number of channels in input, "
            f"but got {name} of shape {list(parameter.shape)} and input of shape {list(shape)}"
        )
    accepted = _PARAMETER_DTYPES[dtype]
    if parameter.dtype not in accepted:
        raise RuntimeError(f"mixed dtype: expected {name} of {' or '.join(map(str, accepted))}, got {parameter.dtype}")
    if parameter.device != device:
        raise RuntimeError(f"Expected {name} on the device of x, {device}, got {parameter.device}")


def _check_layout(name: str, tensor: Tensor, function: str = "group_norm") -> None:
    if tensor.layout is not torch.strided:
        raise NotImplementedError(f"{function}: {name} must be a strided tensor, got one of layout {tensor.layout}")
