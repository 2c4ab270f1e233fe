"""group_norm(): checks its arguments and picks a backend."""

from typing import Literal, overload

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from gn import operators, reference

__all__ = ["Activation", "group_norm"]

Activation = Literal["relu", "silu", "gelu"]

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
    fork: Literal[False] = False,
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
    fork: Literal[True],
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
    fork: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`activation(group_norm(x) + residual)`: Group Normalization (Wu and He, 2018, arXiv:1803.08494), fused.

    Each sample's channels are split into `num_groups` groups; each group is normalized by its own mean and (biased)
    variance over its channels and all positions. One group is LayerNorm over (C, *), C groups are InstanceNorm.

    Args:
        x: (N, C, *), any number of trailing dimensions, in any memory format, which the result shares.
        num_groups: how many groups; it divides C.
        weight: (C,), of the dtype of `x`, or float32 where `x` is bfloat16 or float16.
        bias: (C,), of the same dtype as `weight`.
        eps: added to the variance.
        residual: (N, C, *), added before the activation.
        activation: None, "relu", "silu" or "gelu" (the exact one, by the error function).
        fork: return the result twice, for a network that uses it in two places, as a residual network does. The two
            gradients are then added up where they are read, not by autograd, which writes their sum to memory first;
            the gradients are the same, bit for bit. Neither of the two may be changed in place.

    Returns:
        (N, C, *), of the dtype of `x`, or a pair of it. Statistics are in float32 at least, whatever that dtype is.

    Raises:
        ValueError: an unknown activation, a residual of another shape, or a single value in every group.
        RuntimeError: a shape, dtype or device of the other arguments that `torch.nn.functional.group_norm` refuses too.
        ZeroDivisionError: `num_groups` is zero.
    """
    if has_torch_function_variadic(x, weight, bias, residual):
        return handle_torch_function(
            group_norm,  # type: ignore[arg-type]  # by its overloads
            (x, weight, bias, residual),
            x,
            num_groups,
            weight,
            bias,
            eps,
            residual=residual,
            activation=activation,
            fork=fork,
        )
    # To check the arguments here takes longer than some calls.
    if results := operators.ordinary_group_norm(x, num_groups, weight, bias, eps, residual, activation, fork):
        return (results[0], results[1]) if fork else results[0]
    _check(x, num_groups, weight, bias, residual, activation)
    if residual is not None and residual.dtype != x.dtype:
        residual = residual.to(x.dtype)
    pair = operators.group_norm(x, num_groups, weight, bias, eps, residual, activation)
    return pair if fork else pair[0]


def _check(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
) -> None:
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
    if activation is not None and activation not in reference.ACTIVATIONS:
        known = ", ".join(map(repr, reference.ACTIVATIONS))
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
