"""Switchable normalization (Luo et al. 2019)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from worker.normalizations.normalization import Constant, NormalizationSpec, Place

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


class SwitchableNormalization(NormalizationSpec):
    """Normalizes by learned mixtures of the statistics of `instance`, `layer` and `batch` (Luo et al. 2019).

    The weights of the three means and of the three variances are softmaxes of `mean_weight` and `var_weight`, in this
    order, and equal at first. Evaluation uses running averages for the statistics of the batch.
    """

    reference = "Luo et al. 2019, arXiv 1806.10779"
    needs = "Needs at least 2 images per worker; at small batches it has to learn to avoid the statistics of the batch."
    over_the_batch = True

    type: Literal["switchable"] = "switchable"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance")
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of a new batch in the running averages")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")

    def channels_together(self, num_channels: int) -> int | None:
        """Return 1, for the statistics of `instance`."""
        return 1

    def parameters(self, place: Place) -> Mapping[str, Constant]:
        """Return the scale, the shift, and the logits of the weights."""
        return {**super().parameters(place), "mean_weight": Constant(1.0, (3,)), "var_weight": Constant(1.0, (3,))}

    def buffers(self, place: Place) -> Mapping[str, Constant]:
        """Return the running averages of the mean and of the variance of the batch."""
        return {
            "running_mean": Constant.per_channel(0.0, place.num_channels),
            "running_var": Constant.per_channel(1.0, place.num_channels),
        }

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return `x`, normalized by the mixed mean and the mixed variance."""
        means = [x.mean((2, 3), keepdim=True), x.mean((1, 2, 3), keepdim=True), layer.running_mean]
        variances = [
            x.var((2, 3), correction=0, keepdim=True),
            x.var((1, 2, 3), correction=0, keepdim=True),
            layer.running_var,
        ]
        if layer.training:
            means[2] = x.mean((0, 2, 3)).view_as(layer.running_mean)
            variances[2] = x.var((0, 2, 3), correction=0).view_as(layer.running_var)
            layer.running_mean.lerp_(means[2].detach(), self.momentum)
            layer.running_var.lerp_(variances[2].detach(), self.momentum)
        of_means, of_variances = layer.mean_weight.softmax(0), layer.var_weight.softmax(0)
        mean = of_means[0] * means[0] + of_means[1] * means[1] + of_means[2] * means[2]
        variance = of_variances[0] * variances[0] + of_variances[1] * variances[1] + of_variances[2] * variances[2]
        return (x - mean) * (variance + self.eps).rsqrt()
