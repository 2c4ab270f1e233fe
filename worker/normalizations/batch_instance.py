"""Batch-instance normalization (Nam & Kim 2018)."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.normalizations.normalization import Constant, NormalizationSpec, Place

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


_LARGEST = 1 / math.sqrt(10)
"""The parameter of a gate of 1."""


class BatchInstanceNormalization(NormalizationSpec):
    """A learned mixture of batch and instance normalization for each channel (Nam & Kim 2018).

    gate × batch + (1 - gate) × instance, where the gate starts at 1 and is limited to [0, 1] after every step. The
    learned parameter is gate / √10, with which SGD trains the gate at ten times the learning rate, as in the paper; the
    paper has no weight decay of the gate.
    """

    reference = "Nam & Kim 2018, arXiv 1805.07925"
    needs = "Needs at least 2 images per worker, and feature maps of many pixels."
    over_the_batch = True

    type: Literal["batch_instance"] = "batch_instance"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variances")
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of a new batch in the running averages")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def channels_together(self, num_channels: int) -> int | None:
        """Return 1."""
        return 1

    def parameters(self, place: Place) -> Mapping[str, Constant]:
        """Return the scale, the shift and the gate."""
        return {**super().parameters(place), "gate": Constant.per_channel(_LARGEST, place.num_channels)}

    def buffers(self, place: Place) -> Mapping[str, Constant]:
        """Return the running averages of the mean and of the variance of the batch."""
        return {
            "running_mean": Constant.per_channel(0.0, place.num_channels),
            "running_var": Constant.per_channel(1.0, place.num_channels),
        }

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return the mixture of `x` normalized by the batch and by the image."""
        mean, variance, gate = layer.running_mean, layer.running_var, layer.gate.clamp(0, _LARGEST)
        if layer.training:
            # The step before may have moved the gate out of its limits. The limit has no part in the gradient.
            layer.gate.data.clamp_(0, _LARGEST)
            gate = layer.gate
            mean = x.mean((0, 2, 3)).view_as(layer.running_mean)
            variance = x.var((0, 2, 3), correction=0).view_as(layer.running_var)
            layer.running_mean.lerp_(mean.detach(), self.momentum)
            layer.running_var.lerp_(variance.detach(), self.momentum)
        by_batch = (x - mean) * (variance + self.eps).rsqrt()
        of_image = x.var((2, 3), correction=0, keepdim=True)
        by_image = (x - x.mean((2, 3), keepdim=True)) * (of_image + self.eps).rsqrt()
        gate = gate / _LARGEST
        return gate * by_batch + (1 - gate) * by_image
