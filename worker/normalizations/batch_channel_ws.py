"""Batch-channel normalization with weight standardization (Qiao et al. 2019)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.normalizations.grouping import GroupedNormalizationSpec
from worker.normalizations.normalization import Constant, Place
from worker.normalizations.weight_standardization import WeightStandardizedSpec

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


class BatchChannelWSNormalization(GroupedNormalizationSpec, WeightStandardizedSpec):
    """Batch normalization by estimated statistics, then by groups of channels; standardized filters (Qiao et al. 2019).

    The form for small batches: training too normalizes by the running averages, which it updates first and which are
    constants for the gradient, with a scale and a shift per channel; the groups, with a scale and a shift per group,
    follow. The variance is that around the mean before its update, as in the code of the authors.
    """

    reference = "Qiao et al. 2019, arXiv 1903.10520, section 4"
    needs = (
        "Needs some 1 / `momentum` steps until its estimates hold, and a number of groups that divides all channels."
    )
    over_the_batch = True
    not_distributed = "it normalizes by the running averages of a worker"

    type: Literal["batch_channel_ws"] = "batch_channel_ws"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variances")
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of a new batch in the running averages")
    affine: bool = Field(default=True, description="learn scales and shifts per channel and per group")

    def images_together(self, batch_size: int, num_workers: int) -> int | None:
        """Return the number of images that a running average spans."""
        return round(batch_size / self.momentum)

    def parameters(self, place: Place) -> Mapping[str, Constant]:
        """Return the scales and the shifts of the channels and, as `weight` and `bias`, of the groups."""
        if not self.affine:
            return {}
        groups = self.groups(place.num_channels)
        return {
            "channel_weight": Constant.per_channel(1.0, place.num_channels),
            "channel_bias": Constant.per_channel(0.0, place.num_channels),
            "weight": Constant(1.0, (groups, 1, 1, 1)),
            "bias": Constant(0.0, (groups, 1, 1, 1)),
        }

    def buffers(self, place: Place) -> Mapping[str, Constant]:
        """Return the estimates of the mean and of the variance."""
        return {
            "running_mean": Constant.per_channel(0.0, place.num_channels),
            "running_var": Constant.per_channel(1.0, place.num_channels),
        }

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return `x`, normalized by the estimates and then by groups of channels."""
        if layer.training:
            given = x.detach()
            variance = (given - layer.running_mean).square().mean((0, 2, 3))
            layer.running_mean.lerp_(given.mean((0, 2, 3)).view_as(layer.running_mean), self.momentum)
            layer.running_var.lerp_(variance.view_as(layer.running_var), self.momentum)
        x = (x - layer.running_mean) * (layer.running_var + self.eps).rsqrt()
        if self.affine:
            x = x * layer.channel_weight + layer.channel_bias
        groups = self.split(x)
        axes = (2, 3, 4)
        scale = (groups.var(axes, correction=0, keepdim=True) + self.eps).rsqrt()
        return (groups - groups.mean(axes, keepdim=True)) * scale

    def scale_and_shift(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return the groups with their scales and shifts, joined."""
        return super().scale_and_shift(x, layer).flatten(1, 2)
