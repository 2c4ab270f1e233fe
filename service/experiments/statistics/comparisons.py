"""Comparisons of two rows within one column: the paired difference, and its test."""

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
    """Row a minus row b in one column, over the seeds for which both cells have a value.

    Two jobs with the same seed start from the same convolutions and see the same batches, so they form a pair: effects
    that the seed has on both cancel in their difference.
    """

    column: str
    row_a: str
    row_b: str
    n: int
    """The number of seeds with a value in both cells."""
    difference: float | None
    """The mean of a - b."""
    sd: float | None
    """The standard deviation of a single difference."""
    interval: tuple[float, float] | None
    """The confidence interval of the difference, for a single comparison, not simultaneous for all of them.

    In a sequential experiment it is wider, and holds at whichever interim analysis one stops."""
    p: float | None
    """Two-sided p of the paired t test, for this comparison only; in a sequential experiment, for all its interim
    analyses.

    None with fewer than two common seeds, and if all differences are equal and not 0: see `Estimate`."""
    p_adjusted: float | None
    """`p`, adjusted for all comparisons of the table (Holm 1979)."""
    resolved: bool
    """`p_adjusted` is below 1 - confidence."""
    seeds_needed: int | None
    """The number of further seeds that would resolve it if mean and spread of the differences did not change.

    With these the test would just pass, so the odds are about even. None if it is resolved, without a p, for a
    difference of 0, and beyond 1,000."""
    n_tested: int
    """The number of seeds that gave `p`: those of one interim analysis in a sequential experiment, else n or 0."""
    failed: int
    """The number of seeds that failed in one of the two cells."""


def compare(table: Table, *, confidence: float, plan: SeedPlan | None) -> tuple[tuple[Comparison, ...], int]:
    """Compare all pairs of rows within every column.

    The family is the whole table, which is stricter than one family per column, because a paper quotes the table. With
    fixed seeds it counts the comparisons that have a p value; in a sequential experiment it counts all of them, because
    which of them will have one depends on the values.

    Returns:
        The comparisons, and the size of the family that p_adjusted is adjusted for.
    """
    pairs = list(table.pairs())
    tests = [paired_test(table, [(a, 1), (b, -1)], confidence=confidence, plan=plan) for a, b in pairs]
    family_size = len(tests) if plan else sum(test.p is not None for test in tests)
    adjusted = holm([test.p for test in tests], family_size)

    alpha = 1 - confidence
    resolved = [p is not None and p < alpha for p in adjusted]
    # The threshold of the next step of Holm's procedure, after the resolved comparisons.
    threshold = alpha / max(1, family_size - sum(resolved)) / (len(plan.analyses) if plan else 1)
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
            failed=len(table.failed(a) | table.failed(b)),
        )
        for (a, b), test, p_adjusted, is_resolved in zip(pairs, tests, adjusted, resolved, strict=True)
    )
    return comparisons, family_size


def seeds_needed(difference: Estimate, alpha: float) -> int | None:
    """Return the least number of further values with which a paired t test at `alpha` passes, mean and sd unchanged."""
    if not difference.mean or not difference.sd:
        return None
    needed = _reach(difference.n, alpha) < abs(difference.mean) / difference.sd
    return int(needed.argmax()) + 1 if needed.any() else None


@lru_cache(maxsize=256)
def _reach(n: int, alpha: float) -> Any:
    """Half widths of the intervals at n + 1, n + 2, ... values with a standard deviation of 1."""
    import numpy as np
    from scipy.special import stdtrit

    larger = np.arange(n + 1, n + 1 + MOST_SEEDS_NEEDED)
    return -stdtrit(larger - 1, alpha / 2) / np.sqrt(larger)
