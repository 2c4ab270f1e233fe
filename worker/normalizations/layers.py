"""From the name of a normalization to its layer.

Every layer is called as `layer(x)` or `layer(x, residual)` and computes activation(normalized x + residual), so that a
model is written once for all of them.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gn
from worker.distributed.process_group import ALONE, ProcessGroup
from worker.spec import (
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    NoNormalization,
    Normalization,
    SyncBatchNormalization,
)

Activation = Literal["relu"]


def normalize(normalization: Normalization, num_channels: int, activation: Activation | None = None) -> nn.Module:
    """The layer for feature maps of shape (N, num_channels, H, W)."""
    match normalization:
        case BatchNormalization(eps=eps, momentum=momentum, affine=affine, ghost_batch_size=ghost_batch_size):
            return BatchNorm(
                num_channels,
                eps=eps,
                momentum=momentum,
                affine=affine,
                activation=activation,
                ghost_batch_size=ghost_batch_size,
            )
        case SyncBatchNormalization(eps=eps, momentum=momentum, affine=affine):
            return SyncBatchNorm(num_channels, eps=eps, momentum=momentum, affine=affine, activation=activation)
        case LayerNormalization(eps=eps, affine=affine):
            return gn.GroupNorm(1, num_channels, eps=eps, affine=affine, activation=activation)
        case InstanceNormalization(eps=eps, affine=affine):
            return gn.GroupNorm(num_channels, num_channels, eps=eps, affine=affine, activation=activation)
        case GroupNormalization(eps=eps, affine=affine):
            num_groups = normalization.groups(num_channels)
            return gn.GroupNorm(num_groups, num_channels, eps=eps, affine=affine, activation=activation)
        case NoNormalization():
            return NoNorm(activation)


Forked = tuple[Tensor, Tensor]
"""One result, for use in two places."""


def forked(layer: nn.Module, x: Tensor, residual: Tensor | None = None) -> Forked:
    """`layer(x, residual)`, in the way that makes its gradient the cheapest where it is used in two places."""
    if isinstance(layer, gn.GroupNorm):
        pair: Forked = layer(x, residual, fork=True)
        return pair
    y = layer(x, residual)
    return y, y


class BatchNorm(nn.BatchNorm2d):
    """torch's batch normalization, then the sum with a residual, then the activation.

    With a `ghost_batch_size`, training normalizes each consecutive chunk of so many images by the chunk's own
    statistics, as if each were a batch (Hoffer et al. 2017, arXiv 1705.08741, section 4). Where it does not divide the
    batch the last chunk is smaller. The running averages take one step a batch, towards the mean over its chunks, each
    weighted by its images, so that evaluation normalizes by the variance training saw, within chunks; the paper takes a
    step a chunk. A batch no larger than a chunk is normalized as without one.
    """

    momentum: float

    def __init__(
        self,
        num_channels: int,
        *,
        eps: float,
        momentum: float,
        affine: bool,
        activation: Activation | None,
        ghost_batch_size: int | None = None,
    ) -> None:
        super().__init__(num_channels, eps=eps, momentum=momentum, affine=affine)
        self.activation = activation
        self.ghost_batch_size = ghost_batch_size

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = self.normalize(x)
        if residual is not None:
            x = x.add_(residual)
        return F.relu(x, inplace=True) if self.activation else x

    def normalize(self, x: Tensor) -> Tensor:
        """`x`, normalized; not yet the sum and the activation."""
        if self.training and self.ghost_batch_size is not None and len(x) > self.ghost_batch_size:
            return self._normalize_chunks(x, self.ghost_batch_size)
        return super().forward(x)

    def _normalize_chunks(self, x: Tensor, size: int) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        normalized = []
        for start in range(0, len(x), size):
            chunk = x[start : start + size]
            # With a momentum of 1 torch leaves exactly this chunk's statistics in the "running" ones.
            chunk_mean, chunk_variance = torch.zeros_like(mean), torch.zeros_like(variance)
            normalized.append(
                F.batch_norm(chunk, chunk_mean, chunk_variance, self.weight, self.bias, True, 1.0, self.eps)
            )
            mean.add_(chunk_mean, alpha=len(chunk) / len(x))
            variance.add_(chunk_variance, alpha=len(chunk) / len(x))
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked.add_(1)
        return torch.cat(normalized)


class SyncBatchNorm(BatchNorm):
    """`BatchNorm` over the batches of all workers of `process_group` as one; they must be of one size.

    A worker by itself, and an evaluation, do what `BatchNorm` does.
    """

    process_group: ProcessGroup = ALONE

    def normalize(self, x: Tensor) -> Tensor:
        """`x`, normalized by the mean and the variance over all workers."""
        if not self.training or self.process_group.size == 1:
            return super().normalize(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        normalized: Tensor
        normalized, mean, variance = _GlobalBatchNorm.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.eps, self.process_group
        )
        values = self.process_group.size * x.numel() / x.shape[1]
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (values / (values - 1)), self.momentum)
        self.num_batches_tracked.add_(1)
        return normalized


class _GlobalBatchNorm(torch.autograd.Function):
    """Batch normalization of one worker's images by the statistics of all, computed in at least float32.

    Of m values a worker, the variance over all is the mean of the workers' variances plus the variance of their means
    (Chan et al. 1979). Backward, the means of dy and of dy × normalized are over all workers too.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = _widened(x)
        own_variance, own_mean = torch.var_mean(values, _ALL_BUT_CHANNELS, correction=0)
        means, variances = group.gather_tensor(torch.cat([own_mean, own_variance])).chunk(2, dim=1)
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        normalized = F.batch_norm(values, mean, variance, weight, bias, training=False, eps=eps).to(x.dtype)
        ctx.save_for_backward(x, weight, bias, mean, torch.rsqrt(variance + eps))
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance)
        return normalized, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        normalized = (_widened(x) - _per_channel(mean)) * _per_channel(scale)
        gradient = _widened(gradient)
        sums = torch.cat([gradient.sum(_ALL_BUT_CHANNELS), (gradient * normalized).sum(_ALL_BUT_CHANNELS)])
        values = ctx.group.size * x.numel() / x.shape[1]
        means = ctx.group.gather_tensor(sums).sum(0) / values
        of_gradient, of_product = map(_per_channel, means.chunk(2))
        scale = scale if weight is None else scale * weight
        of_x = (gradient - of_gradient - normalized * of_product) * _per_channel(scale)
        of_bias, of_weight = sums.chunk(2)
        return of_x.to(x.dtype), None if weight is None else of_weight, None if bias is None else of_bias, None, None


_ALL_BUT_CHANNELS = (0, 2, 3)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _per_channel(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)


class NoNorm(nn.Module):
    """No normalization: the sum with a residual, then the activation."""

    def __init__(self, activation: Activation | None) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is None:
            return F.relu(x) if self.activation else x
        x = x + residual
        return F.relu(x, inplace=True) if self.activation else x
