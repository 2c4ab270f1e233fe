"""Two rows in one column: the paired difference, and whether it is real."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Row a minus row b in one column, over the seeds that both cells have a value for.

    Two jobs with one seed start from the same convolutions and see the same images, so the seed is a pair, and its
    difference is free of what the seed does to both.
    """

    column: str
    row_a: str
    row_b: str
    n: int
    """Seeds with a value in both cells."""
    difference: float | None
    """Mean of a - b."""
    sd: float | None
    """Of one difference."""
    interval: tuple[float, float] | None
    """Of the difference; at the stated confidence for each comparison by itself, not for all of them together."""
    p: float | None
    """Two-sided, of the paired t test, for this comparison by itself."""
    p_adjusted: float | None
    """Adjusted for all comparisons of the table (Holm 1979) and, in a sequential experiment, for all planned looks."""
    resolved: bool
    """`p_adjusted` is below 1 - confidence."""
    seeds_needed: int | None
    """How many more seeds would resolve it, should mean and spread stay; None where resolved or where nothing says."""
    n_tested: int
    """Seeds behind `p`: in a sequential experiment those of the planned look that gave it, else n; 0 without a p."""
