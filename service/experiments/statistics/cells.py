"""The statistics of one cell of the table."""

from dataclasses import dataclass

from service.experiments.statistics.intervals import estimate
from service.experiments.statistics.observations import CellKey, Table


@dataclass(frozen=True)
class Cell:
    """The values of one cell, over its seeds.

    `interval` is the two-sided t interval of the mean. It is None with fewer than two values, and if all values are
    equal, because a t interval would claim certainty. With one value `sd` is None too; with none, all but the counts.
    """

    row: str
    column: str
    n: int
    """The number of seeds with a value."""
    mean: float | None
    sd: float | None
    """The standard deviation of a single value, with n - 1 in the denominator."""
    interval: tuple[float, float] | None
    min: float | None
    max: float | None
    without_value: int
    """The number of seeds that ended without a value."""
    failed: int
    """The number of seeds whose jobs failed, with a value or without."""
    repeated: int
    """The number of jobs that do not count because another one of the cell has their seed."""
    jobs: tuple[str, ...]
    """The jobs that gave the values, by seed."""


def summarize(table: Table, key: CellKey, *, confidence: float) -> Cell:
    """Return the statistics of the cell `key` of `table`."""
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
        failed=len(table.failed(key)),
        repeated=table.repeated(key),
        jobs=tuple(observation.job for observation in counted if observation.value is not None),
    )
