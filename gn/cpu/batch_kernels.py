"""Batch normalization on the CPU: allocates the results of the C++ kernels, and calls them."""

import torch
from torch import Tensor

from gn import layout
from gn.batch_call import BatchCall
from gn.call import Gradients, Result
from gn.cpu import kernels

__all__ = ["backward", "forward"]


def forward(call: BatchCall) -> Result:
    """Compute the output, in the layout of `call.x`, and the statistics, (3, sets, C); update the running averages.

    Args:
        call: The arguments, with `x` contiguous or channels-last, and running averages in float32, contiguous.
    """
    x = call.x
    y = torch.empty_like(x)
    statistics = x.new_empty((3, call.sets(), x.shape[1]), dtype=torch.float32)
    _run(call, y, statistics, running=(call.running_mean, call.running_var))
    return y, statistics


def backward(call: BatchCall, dy: Tensor, statistics: Tensor, needs_dx: bool) -> Gradients:
    """Compute the gradients; those of `x` and `residual` are in the layout of `call.x`.

    Args:
        call: The arguments, with `x` contiguous or channels-last, and `residual` as `BatchCall.saved_residual` returned
            it.
        dy: (N, C, *), the gradient of the output, in any layout.
        statistics: (3, sets, C), as `forward` returned them.
        needs_dx: Whether to compute the gradient of `x`.
    """
    upstream = layout.like(dy, call.x)
    return kernels.gradients(call, needs_dx, lambda *results: _run(call, None, statistics, (upstream, *results)))


def _run(
    call: BatchCall,
    y: Tensor | None,
    statistics: Tensor,
    gradients: tuple[Tensor | None, ...] = (None,) * 6,
    running: tuple[Tensor | None, ...] = (None, None),
) -> None:
    library = kernels.library(call.x.dtype, "batch_norm")
    assert library is not None
    # A set is a channel of several samples.
    shape = (call.x.shape[1], call.sets(), call.set_samples(), int(call.training))
    kernels.run(library, call, shape, call.momentum, y, statistics, gradients, running)
