"""Batch renormalization (Ioffe 2017)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from worker.normalizations.normalization import Constant, NormalizationSpec, Place

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


class BatchRenormalization(NormalizationSpec):
    """Batch normalization, corrected towards the running averages that evaluation uses (Ioffe 2017).

    Training normalizes as (x - mean) / deviation × r + d, where r = deviation / running deviation, limited to
    [1/r_max, r_max], and d = (mean - running mean) / running deviation, limited to [-d_max, d_max], are constants for
    the gradient. Until step `ramp_start` the limits make it batch normalization; then they widen linearly.
    """

    reference = "Ioffe 2017, arXiv 1702.03275"
    needs = (
        "Needs more steps than `ramp_start`, until which it is batch normalization; "
        "its running averages need a smaller momentum than those of `batch`."
    )
    over_the_batch = True
    not_distributed = "its correction follows the running averages of a worker"

    type: Literal["batch_renorm"] = "batch_renorm"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance")
    momentum: float = Field(default=0.01, gt=0, le=1, description="weight of a new batch in the running averages")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")
    r_max: float = Field(default=3.0, ge=1, description="largest correction of the scale, as a factor")
    d_max: float = Field(default=5.0, ge=0, description="largest correction of the mean, in running deviations")
    ramp_start: int = Field(default=5_000, ge=0, description="step until which it is batch normalization")
    r_ramp_end: int = Field(default=40_000, ge=1, description="step at which the limit of the scale reaches r_max")
    d_ramp_end: int = Field(default=25_000, ge=1, description="step at which the limit of the mean reaches d_max")

    @model_validator(mode="after")
    def _ramps_end_after_their_start(self) -> Self:
        for field in ("r_ramp_end", "d_ramp_end"):
            if (end := getattr(self, field)) <= self.ramp_start:
                raise PydanticCustomError(
                    "ramp",
                    "{field} is {end}, but ramp_start is {start}: give a {field} above ramp_start",
                    {"field": field, "end": end, "start": self.ramp_start},
                )
        return self

    def buffers(self, place: Place) -> Mapping[str, Constant]:
        """Return the running averages of the mean and of the standard deviation, and the number of steps."""
        return {
            "running_mean": Constant.per_channel(0.0, place.num_channels),
            "running_std": Constant.per_channel(1.0, place.num_channels),
            "steps": Constant(0),
        }

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return `x`, normalized by the batch and corrected in training, by the running averages in evaluation."""
        if not layer.training:
            return (x - layer.running_mean) / layer.running_std
        mean = x.mean((0, 2, 3)).view_as(layer.running_mean)
        std = (x.var((0, 2, 3), correction=0) + self.eps).sqrt().view_as(mean)
        steps = layer.steps.to(x.dtype) - self.ramp_start
        r_max = 1 + (self.r_max - 1) * (steps / (self.r_ramp_end - self.ramp_start)).clamp(0, 1)
        d_max = self.d_max * (steps / (self.d_ramp_end - self.ramp_start)).clamp(0, 1)
        r = (std.detach() / layer.running_std).clamp(1 / r_max, r_max)
        d = ((mean.detach() - layer.running_mean) / layer.running_std).clamp(-d_max, d_max)
        layer.running_mean.lerp_(mean.detach(), self.momentum)
        layer.running_std.lerp_(std.detach(), self.momentum)
        layer.steps.add_(1)
        return (x - mean) * (r / std) + d
