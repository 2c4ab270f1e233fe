"""One cell of the table: what its seeds gave."""

from dataclasses import dataclass

from service.experiments.statistics.intervals import estimate
from service.experiments.statistics.observations import CellKey, Table


@dataclass(frozen=True)
class Cell:
    """The values of one cell, over its seeds.

    `interval` is the two-sided t interval of the mean. It is None with fewer than two values, and where all values are
    equal: no spread was seen, and a t interval would claim certainty. With one value `sd` is None too; with none, all
    but the counts are.
    """

    row: str
    column: str
    n: int
    """Seeds with a value."""
    mean: float | None
    sd: float | None
    """Of one value, with n - 1 in the denominator."""
    interval: tuple[float, float] | None
    min: float | None
    max: float | None
    without_value: int
    """Seeds that were tried and gave no value."""
    repeated: int
    """Jobs left out because another one of the cell has their seed."""
    jobs: tuple[str, ...]
    """The jobs behind the values, by seed."""


def summarize(table: Table, key: CellKey, *, confidence: float) -> Cell:
    """The cell `key` of `table`."""
    counted = table.counted(key)
    values = list(table.values(key).values())
    mean = estimate(values, confidence=confidence)
    return Cell(
        row=key.row,
        column=key.column,
        n=mean.n,
        mean=mean.mean,
        sd=mean.sd,
        interval=mean.interval,
        min=min(values, default=None),
        max=max(values, default=None),
        without_value=len(counted) - len(values),
        repeated=table.repeated(key),
        jobs=tuple(observation.job for observation in counted if observation.value is not None),
    )
