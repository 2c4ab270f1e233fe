"""The operators `torch.ops.gn.group_norm` and `group_norm_backward`, and what torch must know of them.

Which kernels run is decided here, call by call, and what the compiler and autograd ask of an operator is registered
here. Nothing is registered for autocast, so half stays half, and the parameters stay float32.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from gn import backends, layout, reference
from gn.cpu import extension
from gn.cpu import kernels as cpu

__all__ = ["group_norm"]

Result = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor, Tensor]

# The strides of results follow from those of x, so the compiler must not change them.
_TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """`activation(group_norm(x) + residual)`, twice; every argument has been checked."""
    y: Tensor
    if _is_transformed() or forward_ad._current_level >= 0:
        y = reference.group_norm(x, num_groups, weight, bias, eps, residual, activation)[0]
    elif not _is_plain(x, weight, bias, residual):
        y = torch.ops.gn.group_norm.default(x, num_groups, weight, bias, eps, residual, activation)[0]
    elif torch.is_grad_enabled():
        y = _apply(x, num_groups, weight, bias, eps, residual, activation)
    else:
        y = _forward(x, num_groups, weight, bias, eps, residual, activation)[0]
    return y, y


def ordinary_group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
    fork: bool,
) -> Sequence[Tensor]:
    """`activation(group_norm(x) + residual)`, twice where it forks, of arguments that nobody has checked.

    Nothing, of a call that the extension does not take: it takes what it finds to be right, plain, and on the CPU.
    """
    if (
        type(x) in _PLAIN
        and type(weight) in _PLAIN
        and type(bias) in _PLAIN
        and type(residual) in _PLAIN
        and type(num_groups) is int
        and (activation is None or type(activation) is str)
        and x.is_cpu
        and not torch.compiler.is_compiling()
        and not _is_transformed()
        and backends.selected() == "auto"
        and (operator := extension.operator(x.dtype))
    ):
        return operator(x, num_groups, weight, bias, eps, residual, cpu.ACTIVATIONS.get(activation, -1), fork)
    return ()


def _is_transformed() -> bool:
    """Whether torch.func is at work (vmap, grad, jvp): it sees through the reference, not through a kernel."""
    return torch._C._are_functorch_transforms_active()


_PLAIN = {Tensor, nn.Parameter, type(None)}


def _is_plain(*tensors: Tensor | None) -> bool:
    """Whether nothing watches or transforms the tensors, so that a kernel may be called without the dispatcher.

    The way through it takes longer than the kernels do at small batches. A view of the negative is not plain either.
    """
    return (
        not torch.compiler.is_compiling()
        and _get_current_dispatch_mode() is None
        and all(type(tensor) in _PLAIN and (tensor is None or not tensor.is_neg()) for tensor in tensors)
    )


def _forward(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
) -> Result:
    x = layout.dense(x)
    if kernels := _kernels(x):
        return kernels.forward(x, num_groups, weight, bias, eps, residual, activation)
    y, statistics = reference.group_norm(x, num_groups, weight, bias, eps, residual, activation)
    return layout.like(y, x), statistics


def _backward(
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    needs_dx: bool,
) -> Gradients:
    """`residual` is that of the forward pass; of a ReLU, the result instead; None where its gradient is `dy`."""
    x = layout.dense(x)
    if kernels := _kernels(x):
        return kernels.backward(dy, x, statistics, num_groups, weight, bias, residual, activation, needs_dx)
    dx, dweight, dbias, dresidual = reference.group_norm_backward(
        dy, x, statistics, num_groups, weight, bias, residual, activation, needs_dx
    )
    if needs_dx:
        dx = layout.like(dx, x)
    if residual is not None:
        dresidual = layout.like(dresidual, x)
    return dx, dweight, dbias, dresidual


class Kernels(Protocol):
    """What a backend is: `gn.cpu.kernels` and `gn.cuda.kernels` are."""

    def forward(
        self,
        x: Tensor,
        num_groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        residual: Tensor | None,
        activation: str | None,
    ) -> Result: ...

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        statistics: Tensor,
        num_groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: str | None,
        needs_dx: bool,
    ) -> Gradients: ...


def _kernels(x: Tensor) -> Kernels | None:
    """The fused kernels for `x`, or None, which means the reference."""
    if x.numel() == 0 or backends.selected() == "reference":
        return None
    if x.is_cpu and cpu.library(x.dtype):
        return cpu
    if x.is_cuda and x.dtype != torch.float64:
        return _cuda()
    return None


@cache
def _cuda() -> Kernels | None:
    if find_spec("triton") is None:
        warnings.warn("gn: no triton, the slower reference is used instead", RuntimeWarning, stacklevel=2)
        return None
    from gn.cuda import kernels

    return kernels


def _forward_fake(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
) -> Result:
    statistics = x.new_empty((3, x.shape[0], num_groups), dtype=layout.statistics_dtype(x))
    return torch.empty_like(layout.dense(x)), statistics


def _backward_fake(
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    needs_dx: bool,
) -> Gradients:
    x = layout.dense(x)
    dweight = x.new_empty(x.shape[1], dtype=layout.parameter_dtype(x, weight, bias))
    dx = torch.empty_like(x) if needs_dx else x.new_empty(0)
    dresidual = x.new_empty(0) if residual is None else torch.empty_like(x)
    return dx, dweight, torch.empty_like(dweight), dresidual


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    x, num_groups, weight, bias, eps, residual, activation = inputs
    y, statistics = output
    ctx.set_materialize_grads(False)
    ctx.arguments = num_groups, eps, activation
    # A ReLU's gradient needs the sign of what went into it, which the result has too; and the network keeps that.
    kept = None if residual is None or activation is None else y if activation == "relu" else residual
    ctx.save_for_backward(x, statistics, weight, bias, kept)


def _gradients(ctx: Any, dy: Tensor | None, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 7
    x, statistics, weight, bias, kept = ctx.saved_tensors
    num_groups, eps, activation = ctx.arguments
    needs_dx, _, needs_dweight, needs_dbias, _, needs_dresidual, _ = ctx.needs_input_grad
    dx, dweight, dbias, dresidual = _any_gradients(
        dy, x, statistics, num_groups, weight, bias, eps, kept, activation, needs_dx
    )
    if kept is None:
        dresidual = dy
    return (
        dx if needs_dx else None,
        None,
        dweight if needs_dweight else None,
        dbias if needs_dbias else None,
        None,
        dresidual if needs_dresidual else None,
        None,
    )


def _any_gradients(
    dy: Tensor,
    x: Tensor,
    statistics: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    kept: Tensor | None,
    activation: str | None,
    needs_dx: bool,
) -> Gradients:
    """The gradients, whatever is to become of them and whatever transforms them."""
    backward: Callable[..., Gradients]
    if torch.is_grad_enabled():
        # They are to be differentiated in their turn.
        backward, statistics = reference.group_norm_backward, reference.statistics(x, num_groups, eps)
    elif _is_transformed() or torch._C._functorch.is_legacy_batchedtensor(dy):
        backward = reference.group_norm_backward
    else:
        backward = _backward if _is_plain(dy, x, weight, bias, kept) else torch.ops.gn.group_norm_backward.default
    return backward(dy, x, statistics, num_groups, weight, bias, kept, activation, needs_dx)


class _GroupNorm(torch.autograd.Function):
    """What `register_autograd` makes of the operator, in a third of the time."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        result = _forward(*arguments)
        _setup_context(ctx, arguments, result)
        return result[0]

    backward = staticmethod(_gradients)


_apply: Callable[..., Tensor] = _GroupNorm.apply


def _register(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    name, parenthesis, rest = schema.partition("(")
    name = f"gn::{name}"
    torch.library.define(name, parenthesis + rest, tags=_TAGS)
    torch.library.impl(name, "default", kernel)
    torch.library.register_fake(name, fake)


_register(
    "group_norm(Tensor x, SymInt num_groups, Tensor? weight, Tensor? bias, float eps, Tensor? residual, "
    "str? activation) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)
_register(
    "group_norm_backward(Tensor dy, Tensor x, Tensor statistics, SymInt num_groups, Tensor? weight, Tensor? bias, "
    "Tensor? residual, str? activation, bool needs_dx) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
torch.library.register_autograd("gn::group_norm", _gradients, setup_context=_setup_context)
# For the extension, which knows plain tensors only.
torch.library.define(
    "gn::gradients",
    "(Tensor dy, Tensor x, Tensor statistics, int num_groups, Tensor? weight, Tensor? bias, float eps, Tensor? kept, "
    "str? activation, bool needs_dx) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.impl("gn::gradients", "CompositeImplicitAutograd", _any_gradients)
