"""Selection of the backend that computes a call.

A backend is a module that implements `Backend`: `gn.reference`, `gn.cpu.kernels` or `gn.cuda.kernels`. On the CPU a C++
extension calls the same kernels as `gn.cpu.kernels` without executing Python.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gn import dispatch, reference
from gn.batch_call import BatchCall
from gn.call import Call, Gradients, Result
from gn.cpu import extension
from gn.cpu import kernels as cpu
from gn.dispatch import PLAIN_TYPES

__all__ = [
    "NAMES",
    "Backend",
    "Name",
    "backend",
    "decomposes",
    "has_batch_kernel",
    "run_batch_extension",
    "run_extension",
    "select",
    "selected",
]

Name = Literal["auto", "kernels", "reference"]
"""The accepted values of `backend()` and `GN_BACKEND`."""

NAMES = get_args(Name)

_selected: list[str] = []


class Backend(Protocol):
    """An implementation of the forward and the backward pass."""

    def forward(self, call: Call) -> Result:
        """Compute the output, in the layout of `call.x`, and the statistics.

        Args:
            call: The arguments, with `x` contiguous or channels-last.
        """
        ...

    def backward(self, call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool) -> Gradients:
        """Compute the gradients; those of `x` and `residual` are in the layout of `call.x`.

        Args:
            call: The arguments, with `x` contiguous or channels-last, and `residual` as `Call.saved_residual` returned.
            dy: (N, C, *), the gradient of the output, in any layout.
            statistics: (3, N, G), as `forward` returned them.
            needs_dx: Whether to compute the gradient of `x`.
        """
        ...


@contextmanager
def backend(name: Name) -> Iterator[None]:
    """Select the backend within a `with` block.

    The selection holds for the whole process, because autograd runs backward passes on threads of its own. Blocks nest.
    The environment variable `GN_BACKEND` sets the default of a process.

    torch.func, forward-mode differentiation and double backward differentiate the operations of the reference, whatever
    the name. An empty or meta tensor has nothing to compute, and the reference serves it.

    Args:
        name: One of

            * `"auto"`: the C++ extension if it is built, else the kernels called from Python, else the reference;
            * `"kernels"`: the kernels called from Python. `group_norm` raises RuntimeError where no kernel exists, for
              example for float64;
            * `"reference"`: the definition in torch operations.

    Raises:
        ValueError: The name is unknown.
    """
    _selected.append(_checked(name))
    try:
        yield
    finally:
        _selected.pop()


def selected() -> str:
    """Return the name in force: of the innermost `with backend(...)`, else of `GN_BACKEND`, else `"auto"`."""
    return _selected[-1] if _selected else _default()


def select(x: Tensor) -> Backend:
    """Return the backend that computes for `x`.

    Warns once if the kernels for `x` cannot be compiled or imported on this machine and the reference replaces them.

    Args:
        x: (N, C, *), of a dtype that `group_norm` accepts.

    Raises:
        RuntimeError: `"kernels"` is selected, and there is no kernel for the dtype and device of `x`.
    """
    name = selected()
    if name == "reference" or x.numel() == 0:
        return reference
    if x.is_cpu:
        if cpu.library(x.dtype):
            return cpu
    elif x.is_cuda:
        if x.dtype in cpu.CODES and (kernels := _cuda()):
            return kernels
    elif x.is_meta:
        return reference
    if name == "kernels":
        raise RuntimeError(
            f"gn: backend 'kernels' has no kernel for {x.dtype} on {x.device}: {_missing(x)}; "
            "backend 'auto' falls back to the reference"
        )
    if (x.is_cpu or x.is_cuda) and x.dtype in cpu.CODES:
        _warn(_missing(x))
    return reference


def run_extension(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    activation: str | None,
    return_skip: bool,
) -> Sequence[Tensor]:
    """Compute a call in the C++ extension, forward and, through autograd, backward.

    The arguments are those of `group_norm`, unchecked. The extension accepts valid calls on plain CPU tensors, which
    are nearly all calls of a training, and checks them faster than Python can. No `Call` is made: it would add 0.5 µs
    to the 1.2 µs that Python takes here.

    Returns:
        The output, once or twice; nothing if the extension does not accept the call, is not built or not selected.
    """
    if (
        not torch.compiler.is_compiling()
        and selected() == "auto"
        and type(x) in PLAIN_TYPES
        and type(weight) in PLAIN_TYPES
        and type(bias) in PLAIN_TYPES
        and type(residual) in PLAIN_TYPES
        and (activation is None or type(activation) is str)
        and x.is_cpu
        and not torch._C._are_functorch_transforms_active()
        and (operator := extension.operator("group_norm", x.dtype))
    ):
        return operator(x, num_groups, weight, bias, eps, residual, cpu.ACTIVATIONS.get(activation, -1), return_skip)
    return ()


def run_batch_extension(call: BatchCall, return_skip: bool) -> Sequence[Tensor]:
    """Compute a batch normalization as `run_extension` computes a group normalization; see there."""
    x, running_mean, running_var, weight, bias, training, momentum, eps, residual, activation, ghost_batch_size = call
    if (
        not torch.compiler.is_compiling()
        and selected() == "auto"
        and type(x) in PLAIN_TYPES
        and type(running_mean) in PLAIN_TYPES
        and type(running_var) in PLAIN_TYPES
        and type(weight) in PLAIN_TYPES
        and type(bias) in PLAIN_TYPES
        and type(residual) in PLAIN_TYPES
        and (activation is None or type(activation) is str)
        and (ghost_batch_size is None or ghost_batch_size > 0)
        and x.is_cpu
        and not torch._C._are_functorch_transforms_active()
        and (operator := extension.operator("batch_norm", x.dtype))
    ):
        code = cpu.ACTIVATIONS.get(activation, -1)
        size = ghost_batch_size or 0
        return operator(
            x, running_mean, running_var, weight, bias, training, momentum, eps, residual, code, size, return_skip
        )
    return ()


def has_batch_kernel(call: BatchCall) -> bool:
    """Return whether a kernel computes a batch normalization; torch's operations compute the others.

    `extension_batch_norm.h` states the same rule in C++. Arguments that torch refuses have no kernel, so that torch
    raises its error.

    Raises:
        RuntimeError: `"kernels"` is selected, and there is no kernel for the dtype and device of `x` or for the running
            averages.
    """
    x, mean, variance, weight, bias = call[:5]
    if dispatch.is_intercepted() or decomposes() or x.numel() == 0 or x.is_meta:
        return False
    name = selected()
    if name == "reference" or (name == "auto" and not x.is_cpu):
        return False
    if not dispatch.is_plain(x, mean, variance, weight, bias, call.residual) or not _is_valid(call):
        return False
    if x.is_cpu and _are_readable(mean, variance) and cpu.library(x.dtype, "batch_norm"):
        return True
    if name == "kernels":
        raise RuntimeError(
            f"gn: backend 'kernels' has no kernel of batch_norm for {x.dtype} on {x.device}: "
            f"{_missing_of_batch_norm(call)}; backend 'auto' falls back to torch's operations"
        )
    if x.is_cpu and x.dtype in cpu.CODES and _are_readable(mean, variance):
        _warn(_missing_of_batch_norm(call))
    return False


def decomposes(dy: Tensor | None = None) -> bool:
    """Return whether torch must see the operations of the reference instead of one operator.

    That holds under the transformations of torch.func and in forward-mode differentiation; in backward also for
    `create_graph=True` and `is_grads_batched=True`.

    Args:
        dy: The gradient of the output in a backward pass, None in a forward pass.
    """
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return dy is not None and (torch.is_grad_enabled() or torch._C._functorch.is_legacy_batchedtensor(dy))


def _missing(x: Tensor) -> str:
    """Why there is no kernel for `x`."""
    if x.dtype not in cpu.CODES:
        return f"kernels take {', '.join(map(str, cpu.CODES))}"
    if x.is_cuda:
        return "Triton is not installed"
    return cpu.failure(x.dtype) if x.is_cpu else "kernels run on cpu and cuda devices"


def _is_valid(call: BatchCall) -> bool:
    """Whether torch would accept the arguments of a batch normalization."""
    x, mean, variance, weight, bias, training, _, eps = call[:8]
    channels = x.shape[1]
    given = [parameter for parameter in (weight, bias) if parameter is not None]
    averages = [average for average in (mean, variance) if average is not None]
    last = x.shape[0] % call.set_samples() or call.set_samples()
    return (
        all(tensor.shape == (channels,) for tensor in (*given, *averages))
        and all(parameter.dtype in (x.dtype, torch.float32) for parameter in given)
        and len({parameter.dtype for parameter in given}) < 2
        and len(averages) != 1
        and all(tensor.device == x.device for tensor in (*given, *averages))
        and not any(average.requires_grad for average in averages)
        and (eps > 0 and last * x.numel() > x.shape[0] * channels if training else eps >= 0 and bool(averages))
    )


def _are_readable(*averages: Tensor | None) -> bool:
    return all(each is None or (each.dtype is torch.float32 and each.is_contiguous()) for each in averages)


def _missing_of_batch_norm(call: BatchCall) -> str:
    """Why there is no kernel for a batch normalization."""
    x = call.x
    if x.dtype not in cpu.CODES:
        return f"kernels take {', '.join(map(str, cpu.CODES))}"
    if not x.is_cpu:
        return "kernels run on cpu devices"
    if not _are_readable(call.running_mean, call.running_var):
        return "kernels take contiguous running averages of torch.float32"
    return cpu.failure(x.dtype, "batch_norm")


@cache
def _cuda() -> Backend | None:
    if find_spec("triton") is None:
        return None
    from gn.cuda import kernels

    return kernels


@cache
def _warn(reason: str) -> None:
    warnings.warn(f"gn: no fused kernels, the slower reference is used instead: {reason}", RuntimeWarning, stacklevel=2)


@cache
def _default() -> str:
    return _checked(os.environ.get("GN_BACKEND") or "auto")


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"backend must be one of {', '.join(map(repr, NAMES))}, got {name!r}")
    return name
