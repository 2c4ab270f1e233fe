"""From the name of a normalization to its layer.

Every layer is called as `layer(x)` or `layer(x, residual)` and computes activation(normalized x + residual), so that a
model is written once for all of them.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gn
from worker.spec import (
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    NoNormalization,
    Normalization,
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
        case LayerNormalization(eps=eps, affine=affine):
            return gn.GroupNorm(1, num_channels, eps=eps, affine=affine, activation=activation)
        case InstanceNormalization(eps=eps, affine=affine):
            return gn.GroupNorm(num_channels, num_channels, eps=eps, affine=affine, activation=activation)
        case GroupNormalization(eps=eps, affine=affine):
            num_groups = normalization.groups(num_channels)
            return gn.GroupNorm(num_groups, num_channels, eps=eps, affine=affine, activation=activation)
        case NoNormalization():
            return NoNorm(activation)


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
        if self.training and self.ghost_batch_size is not None and len(x) > self.ghost_batch_size:
            x = self._normalize_chunks(x, self.ghost_batch_size)
        else:
            x = super().forward(x)
        if residual is not None:
            x = x.add_(residual)
        return F.relu(x, inplace=True) if self.activation else x

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


class NoNorm(nn.Module):
    """No normalization: the sum with a residual, then the activation."""

    def __init__(self, activation: Activation | None) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None:
            x = x + residual
        return F.relu(x) if self.activation else x
