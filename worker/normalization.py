"""From the name of a normalization to its layer.

Every layer is called as `layer(x)` or `layer(x, residual)` and computes activation(normalized x + residual), so that a
model is written once for all of them.
"""

from typing import Literal

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
        case BatchNormalization(eps=eps, momentum=momentum, affine=affine):
            return BatchNorm(num_channels, eps=eps, momentum=momentum, affine=affine, activation=activation)
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
    """torch's batch normalization, then the sum with a residual, then the activation."""

    def __init__(
        self, num_channels: int, *, eps: float, momentum: float, affine: bool, activation: Activation | None
    ) -> None:
        super().__init__(num_channels, eps=eps, momentum=momentum, affine=affine)
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        if residual is not None:
            x = x.add_(residual)
        return F.relu(x, inplace=True) if self.activation else x


class NoNorm(nn.Module):
    """No normalization: the sum with a residual, then the activation."""

    def __init__(self, activation: Activation | None) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None:
            x = x + residual
        return F.relu(x) if self.activation else x
