"""The specification of one evaluation of a checkpoint."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from worker.metrics import SplitName
from worker.validation import StrictModel


class EvaluationSpec(StrictModel):
    """One evaluation of a checkpoint, which may differ from those of its training."""

    split: SplitName | None = Field(
        default=None,
        description="images, without augmentation; null: those that the training held out, or else the test images",
    )
    precision: Literal["float32", "bfloat16"] | None = Field(
        default=None, description="format of activations; null: that of the training"
    )
    batch_statistics: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="normalize as in training, by the statistics of batches of this many images; null: as in "
        "evaluation, by running averages",
    )
    precise_statistics: int | None = Field(
        default=None,
        ge=1,
        le=50_000,
        description="training images at most over which the running averages are estimated again (Wu & Johnson 2021)",
    )

    @model_validator(mode="after")
    def _one_kind_of_statistics(self) -> Self:
        if self.batch_statistics is not None and self.precise_statistics is not None:
            raise PydanticCustomError(
                "statistics",
                "batch_statistics is {batch}, and precise_statistics is {precise}: give one of them",
                {"batch": self.batch_statistics, "precise": self.precise_statistics},
            )
        return self
