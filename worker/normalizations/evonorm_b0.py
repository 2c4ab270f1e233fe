"""EvoNorm-B0 (Liu et al. 2020)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.normalizations.evonorm import EvoNormSpec
from worker.normalizations.normalization import Constant, Place

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


class EvoNormB0(EvoNormSpec):
    """Divides by the larger one of the deviation of the batch and v·x + the deviation of the image (Liu et al. 2020).

    This replaces a normalization and its activation. Evaluation uses a running average of the variance of the batch.
    """

    reference = "Liu et al. 2020, arXiv 2004.02967, table 2"
    needs = "Needs at least 2 images per worker, and many more for precise statistics."
    over_the_batch = True

    type: Literal["evonorm_b0"] = "evonorm_b0"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variances")
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of a new batch in the running average")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def channels_together(self, num_channels: int) -> int | None:
        """Return 1."""
        return 1

    def buffers(self, place: Place) -> Mapping[str, Constant]:
        """Return the running average of the variance."""
        return {"running_var": Constant.per_channel(1.0, place.num_channels)} if self.replaces_at(place) else {}

    def normalize_and_activate(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return x / max(deviation of the batch, v·x + deviation of the image)."""
        variance = layer.running_var
        if layer.training:
            variance = x.var((0, 2, 3), correction=0).view_as(layer.running_var)
            layer.running_var.lerp_(variance.detach(), self.momentum)
        of_image = (x.var((2, 3), correction=0, keepdim=True) + self.eps).sqrt()
        return x / (variance + self.eps).sqrt().maximum(layer.v * x + of_image)
