"""Filter response normalization with a thresholded linear unit (Singh & Krishnan 2020)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.normalizations.normalization import Constant, NormalizationSpec, Place

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


class FilterResponseNormalization(NormalizationSpec):
    """Divides each channel of an image by its root mean square; the activation is max(y, τ) (Singh & Krishnan 2020).

    The threshold τ of each channel is learned and starts at 0, as the ReLU. In a residual block it follows the sum.
    """

    reference = "Singh & Krishnan 2020, arXiv 1911.09737"
    needs = "Needs a warm-up of the learning rate, and feature maps of more than one pixel."
    replaces = ("activation",)

    type: Literal["filter_response"] = "filter_response"
    eps: float = Field(default=1e-6, gt=0, le=1, description="added to the mean square")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def channels_together(self, num_channels: int) -> int | None:
        """Return 1."""
        return 1

    def parameters(self, place: Place) -> Mapping[str, Constant]:
        """Return the scale and the shift, and the threshold of an activation."""
        threshold = {"threshold": Constant.per_channel(0.0, place.num_channels)} if place.activation else {}
        return {**super().parameters(place), **threshold}

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return each channel of an image divided by its root mean square."""
        return x * (x.square().mean((2, 3), keepdim=True) + self.eps).rsqrt()

    def activate(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return the larger one of `x` and the threshold."""
        return x.maximum(layer.threshold)
