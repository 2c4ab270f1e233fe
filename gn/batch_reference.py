"""Batch normalization in differentiable torch operations.

The forward pass is torch's own batch normalization. It serves float64, other devices, machines without a compiler, and
everything that must see the operations of torch: compilers, tracers, the transformations of torch.func. The gradients
are those that torch differentiates in a double backward of the kernels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from gn import reference
from gn.batch_call import BatchCall
from gn.call import Call, Gradients

__all__ = ["batch_norm", "gradients"]


def batch_norm(call: BatchCall) -> Tensor:
    """Return the output, and update the running averages (Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 1).

    Raises:
        ValueError: As `torch.nn.functional.batch_norm`.
        RuntimeError: As `torch.nn.functional.batch_norm`.
    """
    size = call.ghost_batch_size
    if call.training and size is not None and call.x.shape[0] > size:
        y = _ghost_batches(call, size)
    else:
        y = F.batch_norm(*call[:8])
    if call.residual is not None:
        y = y + call.residual
    return reference.activate(y, call.activation)


def gradients(call: BatchCall, dy: Tensor, statistics: Tensor | None, needs_dx: bool) -> Gradients:
    """Return the gradients of `x`, `weight`, `bias` and `residual`.

    torch can differentiate and transform this function. `call.x` and the results may be in any layout.

    Args:
        call: The arguments, with `residual` as `BatchCall.saved_residual` returned it.
        dy: (N, C, *), the gradient of the output.
        statistics: (3, sets, C); None to compute those of the batch again, as functions of `x`.
        needs_dx: Whether to compute the gradient of `x`.

    Returns:
        (N, C, *), or empty if not requested; (C,) twice, also without a weight and a bias; (N, C, *), or empty without
        a residual.
    """
    size, samples, channels = call.set_samples(), call.x.shape[0], call.x.shape[1]
    whole = samples // size * size
    parts = []
    # A batch of `size` samples is to its channels what a sample is to its groups of channels.
    for begin, end in ((0, whole), (whole, samples)):
        if begin == end:
            continue
        count = size if begin == 0 else samples - whole
        x = _joined(call.x[begin:end], count)
        residual = None if call.residual is None else _joined(call.residual[begin:end], count)
        part = Call(x, channels, call.weight, call.bias, call.eps, residual, call.activation)
        if statistics is None:
            found = reference.statistics(part)
        else:
            found = statistics[:, begin // size :][:, : (end - begin) // count]
        dx, dweight, dbias, dresidual = reference.gradients(
            part, _joined(dy[begin:end], count), found, needs_dx, constant=not call.training
        )
        shape = call.x[begin:end].shape
        if needs_dx:
            dx = _separated(dx, shape)
        if residual is not None:
            dresidual = _separated(dresidual, shape)
        parts.append((dx, dweight, dbias, dresidual))
    if len(parts) == 1:
        return parts[0]
    dxs, dweights, dbiases, dresiduals = zip(*parts, strict=True)
    return torch.cat(dxs), sum(dweights[1:], dweights[0]), sum(dbiases[1:], dbiases[0]), torch.cat(dresiduals)


def _joined(x: Tensor, size: int) -> Tensor:
    """(N, C, *) as (N / size, C, size · positions)."""
    sets = x.reshape(x.shape[0] // size, size, x.shape[1], -1)
    return sets.transpose(1, 2).reshape(sets.shape[0], x.shape[1], -1)


def _separated(x: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `_joined`."""
    sets = x.reshape(x.shape[0], x.shape[1], shape[0] // x.shape[0], -1)
    return sets.transpose(1, 2).reshape(shape)


def _ghost_batches(call: BatchCall, size: int) -> Tensor:
    samples = call.x.shape[0]
    running = call.running_mean, call.running_var
    means = [None if average is None else torch.zeros_like(average) for average in running]
    normalized = []
    for chunk in torch.split(call.x, size):
        # With a momentum of 1, torch sets running averages to the statistics of the chunk.
        mean, variance = found = [None if average is None else torch.zeros_like(average) for average in running]
        normalized.append(F.batch_norm(chunk, mean, variance, call.weight, call.bias, True, 1.0, call.eps))
        for total, statistic in zip(means, found, strict=True):
            if total is not None and statistic is not None:
                total.add_(statistic, alpha=chunk.shape[0] / samples)
    for average, total in zip(running, means, strict=True):
        if average is not None and total is not None:
            average.lerp_(total, call.momentum)
    return torch.cat(normalized)
