"""Instance normalization (Ulyanov et al. 2016)."""

from typing import Literal

from pydantic import Field

from worker.normalizations.normalization import NormalizationSpec


class InstanceNormalization(NormalizationSpec):
    """Normalizes each channel of an image separately (Ulyanov et al. 2016)."""

    reference = "Ulyanov et al. 2016, arXiv 1607.08022"
    needs = "Needs feature maps of many pixels: the statistics are over the pixels of a single channel."

    type: Literal["instance"] = "instance"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def channels_together(self, num_channels: int) -> int | None:
        """Return 1."""
        return 1
