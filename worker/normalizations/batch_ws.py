"""Batch normalization with weight standardization (Qiao et al. 2019)."""

from typing import Literal

from pydantic import Field

from worker.normalizations.weight_standardization import WeightStandardizedSpec


class BatchWSNormalization(WeightStandardizedSpec):
    """Batch normalization, and convolutions with standardized filters (weight standardization, Qiao et al. 2019)."""

    reference = "Qiao et al. 2019, arXiv 1903.10520"
    needs = "Needs at least 2 images per worker, and many more for precise statistics."
    over_the_batch = True

    type: Literal["batch_ws"] = "batch_ws"
    eps: float = Field(default=1e-5, gt=0, le=1, description="added to the variance of a channel")
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of a new batch in the running averages")
    affine: bool = Field(default=True, description="learn a scale and a shift per channel")
