"""Scaled weight standardization with SkipInit, instead of a normalization (Brock et al. 2021; De & Smith 2020)."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.normalizations.normalization import Constant, NormalizationSpec, Place

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer

GAIN = math.sqrt(2 / (1 - 1 / math.pi))
"""With this gain, filters of mean 0 keep the variance of their inputs, if these are the ReLU of a normal variable."""


class NormalizerFree(NormalizationSpec):
    """No normalization: filters of mean 0 and a fixed norm, and branches that start at 0 (Brock et al. 2021).

    Scaled weight standardization uses the filters gain × (W - mean) / √(N × variance) of N weights, with the gain of
    the ReLU, √(2 / (1 - 1/π)). A learned scale and shift of each channel follow. SkipInit multiplies each residual
    branch by a learned number that starts at 0 (De & Smith 2020). The gain is in the filters, as in the equation of the
    paper, and also in those of the first convolution; the code of the authors has it in the activations, which does not
    fit networks with an activation after the sum.
    """

    reference = "Brock et al. 2021, arXiv 2101.08692; De & Smith 2020, arXiv 2002.10444"
    needs = "Needs a warm-up or a lower learning rate than normalized networks, and often more regularization."
    replaces = ("convolution",)

    type: Literal["normalizer_free"] = "normalizer_free"
    eps: float = Field(default=1e-4, gt=0, le=1, description="least value of N × variance")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def parameters(self, place: Place) -> Mapping[str, Constant]:
        """Return the scale and the shift, and the factor of a residual branch."""
        return {**super().parameters(place), **({"skip_gain": Constant(0.0)} if place.ends_branch else {})}

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return `x`."""
        return x

    def scale_and_shift(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return `x` with the scale and the shift, and with the factor of a residual branch."""
        x = super().scale_and_shift(x, layer)
        return x * layer.skip_gain if layer.place.ends_branch else x

    def filters(self, weight: "Tensor") -> "Tensor":
        """Return the standardized and scaled filters."""
        axes = (1, 2, 3)
        variance = weight.var(axes, correction=0, keepdim=True) * weight[0].numel()
        return (weight - weight.mean(axes, keepdim=True)) * variance.clamp(min=self.eps).rsqrt() * GAIN
