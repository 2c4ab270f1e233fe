"""Groups of channels, which several normalizations share."""

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from worker.normalizations.normalization import NormalizationSpec

if TYPE_CHECKING:
    from torch import Tensor


class GroupedNormalizationSpec(NormalizationSpec):
    """The base of the normalizations of groups of channels; by default 8 groups."""

    num_groups: int | None = Field(default=None, ge=1, description="groups in every layer")
    channels_per_group: int | None = Field(default=None, ge=1, description="channels in every group")

    @model_validator(mode="after")
    def _one_grouping(self) -> Self:
        if self.num_groups is not None and self.channels_per_group is not None:
            raise PydanticCustomError(
                "grouping",
                "num_groups ({num_groups}) and channels_per_group ({channels_per_group}) exclude each other: give one",
                {
                    "field": "channels_per_group",
                    "num_groups": self.num_groups,
                    "channels_per_group": self.channels_per_group,
                },
            )
        if self.num_groups is None and self.channels_per_group is None:
            object.__setattr__(self, "num_groups", 8)
        return self

    def groups(self, num_channels: int) -> int:
        """Return the number of groups of a layer with `num_channels` channels."""
        if self.num_groups is not None:
            return self.num_groups
        assert self.channels_per_group is not None
        return num_channels // self.channels_per_group

    def channels_together(self, num_channels: int) -> int | None:
        """Return the number of channels of a group."""
        return num_channels // self.groups(num_channels)

    def split(self, x: "Tensor") -> "Tensor":
        """Return the groups of x (N, C, H, W) as (N, groups, C / groups, H, W); `flatten(1, 2)` joins them again."""
        return x.reshape(x.shape[0], self.groups(x.shape[1]), -1, *x.shape[2:])
