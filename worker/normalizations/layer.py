"""Layer normalization of feature maps (Ba et al. 2016, in the form of Wu & He 2018)."""

from typing import Literal

from pydantic import Field

from worker.normalizations.normalization import NormalizationSpec


class LayerNormalization(NormalizationSpec):
    """Normalizes all channels of an image as one group, with a scale and a shift per channel (Wu & He 2018)."""

    reference = "Ba et al. 2016, arXiv 1607.06450; Wu & He 2018, arXiv 1803.08494, section 3"
    needs = "Needs nothing: each image is normalized by itself."

    type: Literal["layer"] = "layer"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def channels_together(self, num_channels: int) -> int | None:
        """Return the number of all channels."""
        return num_channels
