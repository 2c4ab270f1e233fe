"""Does the effect of the rows depend on the columns?"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contrast:
    """How much the difference between two rows changes from the first column to the last.

    (a - b in the last column) - (a - b in the first), over the seeds that all four cells have a value for.
    """

    row_a: str
    row_b: str
    column_first: str
    column_last: str
    n: int
    difference: float | None
    sd: float | None
    interval: tuple[float, float] | None
    p: float | None
    p_adjusted: float | None
    """Adjusted for all contrasts of the table (Holm 1979), a family of their own beside the comparisons'."""


@dataclass(frozen=True)
class Interaction:
    """The F test of rows × columns, with seeds as blocks."""

    f: float
    df: int
    """Degrees of freedom of the interaction."""
    df_residual: int
    p: float
    resolved: bool
    contrasts: tuple[Contrast, ...]
