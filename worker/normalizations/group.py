"""Group normalization (Wu & He 2018)."""

from typing import Literal

from pydantic import Field

from worker.normalizations.grouping import GroupedNormalizationSpec


class GroupNormalization(GroupedNormalizationSpec):
    """Normalizes groups of channels (Wu & He 2018); give `num_groups` or `channels_per_group`, by default 8 groups."""

    reference = "Wu & He 2018, arXiv 1803.08494"
    needs = "Needs a number of groups that divides the channels of every layer."

    type: Literal["group"] = "group"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")
