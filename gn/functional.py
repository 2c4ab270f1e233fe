"""`group_norm`, the differentiable function, and the checks of its arguments."""

from typing import Literal, overload

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from gn import backends, operators
from gn.call import Call
from gn.reference import ACTIVATIONS

__all__ = ["Activation", "group_norm"]

Activation = Literal["relu", "silu", "gelu"]
"""The names of the activations; "gelu" is the exact GELU, computed with the error function."""

_HALVES = (torch.bfloat16, torch.float16)
_DTYPES = (torch.float32, *_HALVES, torch.float64)


@overload
def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    return_skip: Literal[False] = False,
) -> Tensor: ...


@overload
def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    return_skip: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: Activation | None = None,
    return_skip: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute `activation(group_norm(x) + residual)` in one operator, forward and backward.

    Group Normalization (Wu and He, 2018, arXiv:1803.08494) splits the channels of each sample into `num_groups` groups.
    It normalizes each group by the mean and the (biased) variance over its channels and all positions. One group is
    LayerNorm over (C, *); C groups are InstanceNorm.

    Statistics are computed in float32, in float64 for a float64 `x`.

    Args:
        x: (N, C, *), with any number of trailing dimensions, in bfloat16, float16, float32 or float64. The output has
            its memory format.
        num_groups: A divisor of C.
        weight: (C,), of the dtype of `x`; for a bfloat16 or float16 `x` also float32.
        bias: (C,), of the dtypes of `weight`; both have the same one.
        eps: Added to the variance.
        residual: (N, C, *), added before the activation, in the dtype of `x`.
        activation: None, "relu", "silu" or "gelu" (exact, by the error function).
        return_skip: Return the output twice, for a network that uses it in two places: as the input of the next layer
            and of a skip connection. Backward then adds the two gradients while it reads them; autograd would first
            write their sum to memory. The gradients are equal bit for bit. Neither output may be modified in place.

    Returns:
        (N, C, *), of the dtype of `x`; with `return_skip` a pair of that.

    Raises:
        ValueError: The activation is unknown, `residual` has another shape than `x`, or every group has a single value.
        TypeError: `num_groups` is no int, or `weight` or `bias` is no tensor.
        NotImplementedError: The dtype of `x` is not supported.
        RuntimeError: Another argument has a shape, dtype or device that `torch.nn.functional.group_norm` refuses as
            well; or the backend "kernels" is selected and has no kernel for the dtype and device of `x`.
        ZeroDivisionError: `num_groups` is zero.
    """
    if has_torch_function_variadic(x, weight, bias, residual):
        return handle_torch_function(
            group_norm,  # type: ignore[arg-type]  # because of its overloads
            (x, weight, bias, residual),
            x,
            num_groups,
            weight,
            bias,
            eps,
            residual=residual,
            activation=activation,
            return_skip=return_skip,
        )
    # The extension checks the arguments itself: at batch 2 everything below takes longer than the kernels.
    if outputs := backends.run_extension(x, num_groups, weight, bias, eps, residual, activation, return_skip):
        return (outputs[0], outputs[1]) if return_skip else outputs[0]
    call = Call(x, num_groups, weight, bias, eps, residual, activation)
    _check(call)
    if residual is not None and residual.dtype != x.dtype:
        call = call._replace(residual=residual.to(x.dtype))
    y = operators.group_norm(call)
    return (y, y) if return_skip else y


def _check(call: Call) -> None:
    x, num_groups, weight, bias, _, residual, activation = call
    if x.dim() < 2:
        raise RuntimeError(f"Expected at least 2 dimensions for input tensor but received {x.dim()}")
    if not isinstance(num_groups, int | torch.SymInt):
        raise TypeError(f"num_groups must be an int, got {num_groups!r}")
    if num_groups == 0:
        raise ZeroDivisionError("num_groups must be at least 1, got 0")
    if num_groups < 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    channels = x.shape[1]
    if channels % num_groups != 0:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, "
            f"but got input of shape {list(x.shape)} and num_groups={num_groups}"
        )
    if x.numel() == num_groups:
        size = [channels // num_groups, num_groups, *x.shape[2:]]
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {size}")
    dtype = x.dtype
    if dtype not in _DTYPES:
        raise NotImplementedError(f"group_norm: x must be float32, bfloat16, float16 or float64, got {dtype}")
    if weight is not None:
        _check_parameter("weight", weight, x)
    if bias is not None:
        _check_parameter("bias", bias, x)
        if weight is not None and weight.dtype != bias.dtype:
            raise RuntimeError(f"mixed dtype: expected bias of the dtype of weight, {weight.dtype}, got {bias.dtype}")
    if residual is not None:
        if residual.shape != x.shape:
            raise ValueError(f"residual must have the shape of x, {list(x.shape)}, got {list(residual.shape)}")
        if residual.device != x.device:
            raise RuntimeError(f"Expected residual on the device of x, {x.device}, got {residual.device}")
    if activation is not None and activation not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"activation must be None or one of {known}, got {activation!r}")


def _check_parameter(name: str, parameter: Tensor, x: Tensor) -> None:
    if not isinstance(parameter, Tensor):
        raise TypeError(f"group_norm: {name} must be a Tensor, got {parameter!r}")
    if parameter.dim() != 1 or parameter.shape[0] != x.shape[1]:
        raise RuntimeError(
            f"Expected {name} to be a vector of size equal to the number of channels in input, "
            f"but got {name} of shape {list(parameter.shape)} and input of shape {list(x.shape)}"
        )
    half = x.dtype in _HALVES
    if parameter.dtype != x.dtype and not (half and parameter.dtype == torch.float32):
        accepted = f"{x.dtype} or torch.float32" if half else f"{x.dtype}"
        raise RuntimeError(f"mixed dtype: expected {name} of {accepted}, got {parameter.dtype}")
    if parameter.device != x.device:
        raise RuntimeError(f"Expected {name} on the device of x, {x.device}, got {parameter.device}")
