"""What a request says about tuning: which fields are searched, over which values, at which cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from worker.spec import Dataset
from worker.validation import StrictModel

FIRST_SEED = 100_000
"""The first seed of the search, whose others follow it: the tuned jobs have seeds that the search has not seen."""
LABEL = "tune"
"""The label of the jobs of a tuned experiment; its value is their stage."""
MOST_VALUES = 50
NOT_TUNED = frozenset({"seed", "dataset", "epochs", "checkpoint", "telemetry", "num_workers", "deterministic"})
"""Fields that decide what is compared or how it is run, and are no hyper-parameter."""

TunedField = Annotated[str, Field(min_length=1, max_length=100)]


class LogGrid(StrictModel):
    """Values at equal ratios, from the smallest to the largest."""

    smallest: float = Field(alias="from", gt=0, description="the smallest value")
    largest: float = Field(alias="to", gt=0, description="the largest value")
    points: int = Field(ge=2, le=MOST_VALUES, description="number of values")

    @property
    def values(self) -> list[float]:
        """The values, to four digits."""
        ratio = self.largest / self.smallest
        inner = (self.smallest * ratio ** (n / (self.points - 1)) for n in range(1, self.points - 1))
        return [self.smallest, *(float(f"{value:.4g}") for value in inner), self.largest]


class Tune(StrictModel):
    """A search of hyper-parameters on held-out training images, for each row or for each cell.

    Every combination of values trains for a share of the epochs, with seeds of its own, without the held-out images.
    The one with the lowest error on them then trains with the seeds of the grid on all training images.
    """

    over: dict[TunedField, Annotated[list[Any], Field(min_length=1, max_length=MOST_VALUES)]] = Field(
        min_length=1,
        max_length=4,
        description="values of fields of a job, as in optimizer.learning_rate: a list, or {from, to, points} for "
        "values at equal ratios. A field that the jobs of a row do not have is not searched there",
    )
    per: Literal["row", "cell"] = Field(
        default="row",
        description="row: one choice for all columns, by their mean error; cell: one for each cell",
    )
    holdout: int = Field(default=5000, ge=1, description="training images to hold out in the search")
    seeds: int = Field(default=2, ge=1, le=100, description="number of seeds of every combination in the search")
    epochs: float = Field(default=0.3, gt=0, le=1, description="fraction of the epochs of a job that the search trains")
    compare: bool = Field(
        default=True, description="also train the jobs as they are given, untuned, and show both tables"
    )

    @field_validator("over", mode="before", json_schema_input_type=dict[TunedField, list[Any] | LogGrid])
    @classmethod
    def _expand_grids(cls, over: Any) -> Any:
        if not isinstance(over, Mapping):
            return over
        return {name: _values(name, given) if isinstance(given, Mapping) else given for name, given in over.items()}

    @property
    def search_seeds(self) -> Sequence[int]:
        """The seeds of the search."""
        return range(FIRST_SEED, FIRST_SEED + self.seeds)

    def searched_dataset(self, dataset: Dataset) -> dict[str, Any]:
        """Return the dataset of the search: with the holdout, and without test images."""
        return dataset.model_dump(mode="json") | {"holdout": self.holdout, "test_limit": 0}

    def searched_epochs(self, epochs: int) -> int:
        """Return the number of epochs of the search."""
        return max(1, round(epochs * self.epochs))


def _values(name: Any, given: Mapping[str, Any]) -> list[float]:
    try:
        grid = LogGrid.model_validate(given)
        if grid.smallest < grid.largest and math.isfinite(grid.largest / grid.smallest):
            return grid.values
    except ValidationError:
        pass
    raise PydanticCustomError(
        "log_grid",
        "{name} is {given}: give a list of values, or {from, to, points} with 0 < from < to and 2 to {most} points",
        {"name": str(name), "given": str(dict(given))[:80], "most": MOST_VALUES},
    )
