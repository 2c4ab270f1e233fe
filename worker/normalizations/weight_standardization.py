"""Weight standardization (Qiao et al. 2019), which several normalizations share."""

from typing import TYPE_CHECKING

from worker.normalizations.normalization import NormalizationSpec

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-5
"""Added to the variance of a filter."""


class WeightStandardizedSpec(NormalizationSpec):
    """The base of the normalizations whose convolutions have standardized filters.

    Every filter has mean 0 and variance 1 over its in_channels × height × width weights: (W - mean) / √(variance + eps)
    (Qiao et al. 2019, arXiv 1903.10520, section 3.1). The gradient is that of the learned weight.
    """

    replaces = ("convolution",)

    def filters(self, weight: "Tensor") -> "Tensor":
        """Return the standardized filters."""
        axes = (1, 2, 3)
        variance = weight.var(axes, correction=0, keepdim=True)
        return (weight - weight.mean(axes, keepdim=True)) * (variance + EPS).rsqrt()
