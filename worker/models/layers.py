"""The convolution and the linear layer of the models; `worker.models.build_model` sets every weight."""

from torch import Tensor, nn
from torch.nn import functional as F

from worker.normalizations.normalization import NormalizationSpec


class Convolution(nn.Conv2d):
    """torch.nn.Conv2d with the filters of a normalization, and without its own initialization.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Height and width of a filter.
        normalization: The normalization of the network, which may replace the filters.
        stride: Distance of two positions of a filter.
        padding: Zeros added on each side.
        bias: Learn a bias per channel.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        normalization: NormalizationSpec,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        self.normalization = normalization

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps (N, C', H', W') of x (N, C, H, W)."""
        filters = self.normalization.filters(self.weight)
        return F.conv2d(x, filters, self.bias, self.stride, self.padding)

    def reset_parameters(self) -> None:
        """Do nothing, as torch would draw from its global random number generator."""


class Linear(nn.Linear):
    """torch.nn.Linear without its own initialization."""

    def reset_parameters(self) -> None:
        """Do nothing, as torch would draw from its global random number generator."""
