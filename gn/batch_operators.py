"""Batch normalization as a differentiable operation of the selected backend.

There is no operator for compilers and tracers: they see torch's own operations (`gn.batch_reference`). No rule is
registered for autocast: a half-precision input stays half precision, and parameters stay float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gn import backends, batch_reference, dispatch
from gn.batch_call import BatchCall
from gn.call import Gradients
from gn.cpu import batch_kernels

__all__ = ["batch_norm"]

_GRADIENTS = (
    "batch_norm_gradients(Tensor x, Tensor? weight, Tensor? bias, bool training, float eps, Tensor? residual, "
    "str? activation, SymInt? ghost_batch_size, Tensor dy, Tensor statistics, bool needs_dx) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)


def batch_norm(call: BatchCall) -> Tensor:
    """Compute `activation(batch_norm(x) + residual)`, differentiable in every tensor; update the running averages.

    Args:
        call: The arguments; torch checks those that it shares with `torch.nn.functional.batch_norm`.

    Returns:
        (N, C, *), of the dtype of `x`.

    Raises:
        RuntimeError: The backend "kernels" is selected and has no kernel for the arguments.
    """
    y: Tensor
    if not backends.has_batch_kernel(call):
        y = batch_reference.batch_norm(call)
    elif torch.is_grad_enabled():
        y = _apply(*call)
    else:
        y = batch_kernels.forward(call.dense())[0]
    return y


def _gradients(call: BatchCall, dy: Tensor, statistics: Tensor, needs_dx: bool) -> Gradients:
    """The gradients, also where torch transforms or differentiates them."""
    dy = dy if dy.layout is torch.strided else dy.to_dense()
    plain = dispatch.is_plain(call.x, call.weight, call.bias, call.residual, dy, statistics)
    if backends.decomposes(dy) or dispatch.is_intercepted() or not plain:
        # To autograd, statistics that were saved are constants.
        again = torch.is_grad_enabled() and call.training
        return batch_reference.gradients(call, dy, None if again else statistics, needs_dx)
    return batch_kernels.backward(call.dense(), dy, statistics.contiguous(), needs_dx)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        call = BatchCall(*arguments)
        y, statistics = batch_kernels.forward(call.dense())
        ctx.set_materialize_grads(False)
        ctx.settings = call.training, call.eps, call.activation, call.ghost_batch_size
        ctx.save_for_backward(call.x, call.weight, call.bias, call.saved_residual(y), statistics)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * len(BatchCall._fields)
        x, weight, bias, residual, statistics = ctx.saved_tensors
        call = _call(x, weight, bias, residual, *ctx.settings)
        needs_dx, _, _, needs_dweight, needs_dbias, *_, needs_dresidual, _, _ = ctx.needs_input_grad
        dx, dweight, dbias, dresidual = _gradients(call, dy, statistics, needs_dx)
        if residual is None:
            dresidual = dy
        return (
            dx if needs_dx else None,
            None,
            None,
            dweight if needs_dweight else None,
            dbias if needs_dbias else None,
            None,
            None,
            None,
            dresidual if needs_dresidual else None,
            None,
            None,
        )


_apply: Callable[..., Tensor] = _BatchNorm.apply


def _call(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    ghost_batch_size: int | None,
) -> BatchCall:
    """The arguments of a backward pass, which needs no running averages."""
    return BatchCall(x, None, None, weight, bias, training, 0.0, eps, residual, activation, ghost_batch_size)


def _gradients_in_python(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
    ghost_batch_size: int | None,
    dy: Tensor,
    statistics: Tensor,
    needs_dx: bool,
) -> Gradients:
    call = _call(x, weight, bias, residual, training, eps, activation, ghost_batch_size)
    return _gradients(call, dy, statistics, needs_dx)


def _register() -> None:
    """Register the operator that the extension calls for gradients that are to be differentiated or transformed."""
    if not hasattr(torch.ops.gn, "batch_norm_gradients"):  # this module may be imported again, or reloaded
        torch.library.define("gn::batch_norm_gradients", _GRADIENTS[_GRADIENTS.index("(") :])
        torch.library.impl("gn::batch_norm_gradients", "CompositeImplicitAutograd", _gradients_in_python)


_register()
