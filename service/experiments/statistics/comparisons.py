"""Two rows in one column: the paired difference, and whether it is real."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from service.experiments.statistics.intervals import Estimate
from service.experiments.statistics.observations import Table
from service.experiments.statistics.pairing import holm, paired_test
from service.experiments.statistics.plan import SeedPlan

MOST_SEEDS_NEEDED = 1000


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
    """Of the difference, at the stated confidence for each comparison by itself, not for all of them together.

    In a sequential experiment it is wider, and holds at whichever planned look one stops."""
    p: float | None
    """Two-sided, of the paired t test, for this comparison by itself; in a sequential experiment for all its looks.

    None with fewer than two common seeds, and where all differences are equal and not 0: see `Estimate`."""
    p_adjusted: float | None
    """`p`, adjusted for all comparisons of the table (Holm 1979)."""
    resolved: bool
    """`p_adjusted` is below 1 - confidence."""
    seeds_needed: int | None
    """How many more seeds would resolve it, if mean and spread of the differences stayed as they are.

    That is where the difference would just pass, so it is a guess with even odds, not a promise. None where it is
    resolved, without a p, at a difference of 0, and beyond 1,000."""
    n_tested: int
    """Seeds behind `p`: in a sequential experiment those of the planned look that gave it, else n; 0 without a p."""


def compare(table: Table, *, confidence: float, plan: SeedPlan | None) -> tuple[tuple[Comparison, ...], int]:
    """Every two rows of every column, and how many comparisons p_adjusted answers for.

    The family is the whole table, which is stricter than a family a column: a paper quotes the table. Where the seeds
    were fixed it counts the comparisons that have a p; in a sequential experiment it counts all, because which of them
    get a p is only seen on the way.
    """
    pairs = list(table.pairs())
    tests = [paired_test(table, [(a, 1), (b, -1)], confidence=confidence, plan=plan) for a, b in pairs]
    family_size = len(tests) if plan else sum(test.p is not None for test in tests)
    adjusted = holm([test.p for test in tests], family_size)

    alpha = 1 - confidence
    resolved = [p is not None and p < alpha for p in adjusted]
    # What the next comparison has to pass, in Holm's order: those that are resolved are out of the way.
    threshold = alpha / max(1, family_size - sum(resolved)) / (len(plan.looks) if plan else 1)
    comparisons = tuple(
        Comparison(
            column=a.column,
            row_a=a.row,
            row_b=b.row,
            n=test.estimate.n,
            difference=test.estimate.mean,
            sd=test.estimate.sd,
            interval=test.estimate.interval,
            p=test.p,
            p_adjusted=p_adjusted,
            resolved=is_resolved,
            seeds_needed=None if is_resolved else seeds_needed(test.estimate, threshold),
            n_tested=test.n,
        )
        for (a, b), test, p_adjusted, is_resolved in zip(pairs, tests, adjusted, resolved, strict=True)
    )
    return comparisons, family_size


def seeds_needed(difference: Estimate, alpha: float) -> int | None:
    """The smallest number of further values at which a paired t test at `alpha` would pass, mean and sd unchanged."""
    if not difference.mean or not difference.sd:
        return None
    needed = _reach(difference.n, alpha) < abs(difference.mean) / difference.sd
    return int(needed.argmax()) + 1 if needed.any() else None


@lru_cache(maxsize=256)
def _reach(n: int, alpha: float) -> Any:
    """Half an interval at n + 1, n + 2, ... values of standard deviation 1."""
    import numpy as np
    from scipy.special import stdtrit

    larger = np.arange(n + 1, n + 1 + MOST_SEEDS_NEEDED)
    return -stdtrit(larger - 1, alpha / 2) / np.sqrt(larger)
