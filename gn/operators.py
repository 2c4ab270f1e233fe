"""The operators `torch.ops.gn.*`, and their registration with autograd and the compiler.

`gn.backends` selects the backend of each call. No rule is registered for autocast: a half-precision input stays half
precision, and parameters stay float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gn import backends, dispatch, layout, reference, validation
from gn.call import Call, Gradients, Result

__all__ = ["group_norm", "group_norm_with_skip"]

# The compiler must not change the strides of x, because they determine those of the results.
_TAGS = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)
_SCHEMA = "Tensor x, SymInt num_groups, Tensor? weight, Tensor? bias, float eps, Tensor? residual, str? activation"
_FORWARD = f"group_norm({_SCHEMA}) -> (Tensor, Tensor)"
_BACKWARD = (
    f"group_norm_backward({_SCHEMA}, Tensor dy, Tensor statistics, bool needs_dx) -> (Tensor, Tensor, Tensor, Tensor)"
)
_FIELDS = len(Call._fields)


def group_norm(call: Call) -> Tensor:
    """Compute `activation(group_norm(x) + residual)`, differentiable in every tensor.

    Args:
        call: Valid arguments.

    Returns:
        (N, C, *), of the dtype of `x`.

    Raises:
        RuntimeError: The backend "kernels" is selected and has no kernel for the dtype and device of `x`.
    """
    y: Tensor
    direct = _is_direct(call)
    if backends.decomposes() or (not direct and torch.onnx.is_in_onnx_export()):
        y = reference.group_norm(call)[0]
    elif not direct:
        y = torch.ops.gn.group_norm.default(*call)[0]
    elif torch.is_grad_enabled():
        y = _apply(*call)
    else:
        y = _forward(call)[0]
    return y


def group_norm_with_skip(call: Call) -> tuple[Tensor, Tensor]:
    """Compute the output twice, like `group_norm`; backward reads the gradients of both.

    Compilers, tracers and transformations see one output, used twice.
    """
    if torch.is_grad_enabled() and _is_direct(call) and not backends.decomposes():
        return _apply_with_skip(*call)
    y = group_norm(call)
    return y, y


def _is_direct(call: Call, *others: Tensor) -> bool:
    """Whether a backend is called without torch's dispatcher, which takes longer than the kernels at batch 2."""
    return not dispatch.is_intercepted() and dispatch.is_plain(call.x, call.weight, call.bias, call.residual, *others)


def _forward(call: Call) -> Result:
    call = call.dense()
    return backends.select(call.x).forward(call)


def _backward(call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool, skip_dy: Tensor | None = None) -> Gradients:
    call = call.dense()
    return backends.select(call.x).backward(call, dy, statistics.contiguous(), needs_dx, skip_dy)


def _checked_forward(call: Call) -> Result:
    # A saved trace calls the operator with whatever it is given.
    validation.check(call)
    return _forward(call)


def _forward_fake(call: Call) -> Result:
    statistics = call.x.new_empty((3, call.x.shape[0], call.num_groups), dtype=layout.statistics_dtype(call.x))
    return torch.empty_like(layout.dense(call.x)), statistics


def _backward_fake(call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool) -> Gradients:
    x = layout.dense(call.x)
    dweight = x.new_empty(x.shape[1], dtype=call.parameter_dtype())
    dx = torch.empty_like(x) if needs_dx else x.new_empty(0)
    dresidual = x.new_empty(0) if call.residual is None else torch.empty_like(x)
    return dx, dweight, torch.empty_like(dweight), dresidual


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
    _save(ctx, Call(*inputs), *output)


def _save(ctx: Any, call: Call, y: Tensor, statistics: Tensor) -> None:
    ctx.set_materialize_grads(False)
    ctx.settings = call.num_groups, call.eps, call.activation
    ctx.save_for_backward(call.x, call.weight, call.bias, call.saved_residual(y), statistics)


def _gradients_of_inputs(ctx: Any, dy: Tensor | None, _: Tensor | None = None) -> tuple[Tensor | None, ...]:
    return _gradients_with_skip(ctx, dy, None)


def _gradients_with_skip(ctx: Any, dy: Tensor | None, skip_dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        dy, skip_dy = skip_dy, None
    if dy is None:
        return (None,) * _FIELDS
    x, weight, bias, residual, statistics = ctx.saved_tensors
    num_groups, eps, activation = ctx.settings
    call = Call(x, num_groups, weight, bias, eps, residual, activation)
    needs_dx, _, needs_dweight, needs_dbias, _, needs_dresidual, _ = ctx.needs_input_grad
    # Without an activation the upstream gradient is that of the residual, which must be the sum.
    is_residual_gradient = needs_dresidual and residual is None
    needs_sum = is_residual_gradient or backends.decomposes(dy)
    if skip_dy is not None and (needs_sum or not _is_direct(call, dy, skip_dy, statistics)):
        dy, skip_dy = dy + skip_dy, None
    dx, dweight, dbias, dresidual = _gradients(call, dy, statistics, needs_dx, skip_dy)
    if residual is None:
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


def _gradients(call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool, skip_dy: Tensor | None = None) -> Gradients:
    """The gradients, also where torch transforms or differentiates them; a `skip_dy` is plain, and so is `dy` then."""
    dy = dy if dy.layout is torch.strided else dy.to_dense()
    if backends.decomposes(dy):
        if torch.is_grad_enabled():
            # The statistics that were saved are constants to autograd.
            statistics = reference.statistics(call)
        return reference.gradients(call, dy, statistics, needs_dx)
    if _is_direct(call, dy, statistics):
        return _backward(call, dy, statistics, needs_dx, skip_dy)
    result: Gradients = torch.ops.gn.group_norm_backward.default(*call, dy, statistics, needs_dx)
    return result


class _GroupNorm(torch.autograd.Function):
    """The same node as `register_autograd` makes of the operator, in a third of the time."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        call = Call(*arguments)
        y, statistics = _forward(call)
        _save(ctx, call, y, statistics)
        return y

    backward = staticmethod(_gradients_of_inputs)


class _GroupNormWithSkip(torch.autograd.Function):
    """`_GroupNorm` with its output returned twice."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        y = _GroupNorm.forward(ctx, *arguments)
        # Views, because autograd raises an error when one of several views is modified in place.
        return torch.ops.aten.alias(y), torch.ops.aten.alias(y)

    backward = staticmethod(_gradients_with_skip)


_apply: Callable[..., Tensor] = _GroupNorm.apply
_apply_with_skip: Callable[..., tuple[Tensor, Tensor]] = _GroupNormWithSkip.apply


def _from_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called with the flat arguments of an operator."""
    return lambda *arguments: function(Call(*arguments[:_FIELDS]), *arguments[_FIELDS:])


def _register(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    name = f"gn::{schema.partition('(')[0]}"
    torch.library.define(name, schema[schema.index("(") :], tags=_TAGS)
    torch.library.impl(name, "default", _from_arguments(kernel))
    torch.library.register_fake(name, _from_arguments(fake))


def _register_all() -> None:
    _register(_FORWARD, _checked_forward, _forward_fake)
    _register(_BACKWARD, _backward, _backward_fake)
    torch.library.register_autograd("gn::group_norm", _gradients_of_inputs, setup_context=_setup_context)
    # The extension calls this operator for tensors that are not plain, and for gradients that are to be differentiated.
    torch.library.define("gn::gradients", _BACKWARD[_BACKWARD.index("(") :])
    torch.library.impl("gn::gradients", "CompositeImplicitAutograd", _from_arguments(_gradients))


def _is_registered() -> bool:
    """Whether this module was imported before, under another name or before it was reloaded.

    Operators are registered once in a process: compiled graphs, saved nodes of autograd and the extension keep them.

    Raises:
        ImportError: Another version of gn has registered operators with other arguments.
    """
    if not hasattr(torch.ops.gn, "group_norm"):
        return False
    for schema in (_FORWARD, _BACKWARD):
        ours = torch._C.parse_schema(f"gn::{schema}")
        theirs = getattr(torch.ops.gn, schema.partition("(")[0]).default._schema
        if ours != theirs:
            raise ImportError(
                f"another version of gn is loaded in this process: it has registered {theirs}, not {ours}"
            )
    return True


if not _is_registered():
    _register_all()
