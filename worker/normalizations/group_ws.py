"""Group normalization with weight standardization (Qiao et al. 2019)."""

from typing import Literal

from pydantic import Field

from worker.normalizations.grouping import GroupedNormalizationSpec
from worker.normalizations.weight_standardization import WeightStandardizedSpec


class GroupWSNormalization(GroupedNormalizationSpec, WeightStandardizedSpec):
    """Group normalization, and convolutions with standardized filters (weight standardization, Qiao et al. 2019)."""

    reference = "Qiao et al. 2019, arXiv 1903.10520"
    needs = "Needs a number of groups that divides the channels of every layer."

    type: Literal["group_ws"] = "group_ws"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance of a group")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")
