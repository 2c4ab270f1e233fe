"""Root mean square normalization of groups of channels (Zhang & Sennrich 2019)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.normalizations.grouping import GroupedNormalizationSpec

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


class RMSNormalization(GroupedNormalizationSpec):
    """Divides groups of channels by their root mean square: `group` without the mean (Zhang & Sennrich 2019).

    With the scale and the shift of `group`; the paper has one group and no shift.
    """

    reference = "Zhang & Sennrich 2019, arXiv 1910.07467"
    needs = "Needs a number of groups that divides the channels of every layer."

    type: Literal["rms"] = "rms"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the mean square")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return each group of channels divided by its root mean square."""
        grouped = self.split(x)
        return (grouped * (grouped.square().mean((2, 3, 4), keepdim=True) + self.eps).rsqrt()).flatten(1, 2)
