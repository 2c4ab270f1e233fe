"""EvoNorm-S0 (Liu et al. 2020)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.normalizations.evonorm import EvoNormSpec
from worker.normalizations.grouping import GroupedNormalizationSpec

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


class EvoNormS0(EvoNormSpec, GroupedNormalizationSpec):
    """x · sigmoid(v·x) / deviation of the group of channels, which replaces the activation too (Liu et al. 2020)."""

    reference = "Liu et al. 2020, arXiv 2004.02967, table 2"
    needs = "Needs a number of groups that divides the channels of every layer."

    type: Literal["evonorm_s0"] = "evonorm_s0"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance of a group")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def normalize_and_activate(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return x · sigmoid(v·x) / deviation of the group."""
        grouped = self.split(x)
        scale = (grouped.var((2, 3, 4), correction=0, keepdim=True) + self.eps).rsqrt()
        return self.split(x * (layer.v * x).sigmoid()).mul(scale).flatten(1, 2)
