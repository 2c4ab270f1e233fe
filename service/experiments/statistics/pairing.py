"""Paired differences over seeds, tested once or at each of several interim analyses."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.experiments.statistics.intervals import Estimate, estimate
from service.experiments.statistics.observations import CellKey, Table
from service.experiments.statistics.plan import SeedPlan


@dataclass(frozen=True)
class PairedTest:
    """A paired difference and its p value."""

    estimate: Estimate
    """Over all seeds. With a plan, the interval holds at whichever interim analysis one stops."""
    p: float | None
    """Two-sided. With a plan, it is valid for all interim analyses together."""
    n: int
    """The number of seeds that gave `p`; 0 without a p."""


def paired_test(
    table: Table, signs: Sequence[tuple[CellKey, int]], *, confidence: float, plan: SeedPlan | None
) -> PairedTest:
    """Test the signed sum of some cells by a paired t test, over the seeds for which all of them have a value.

    With a plan of K interim analyses the sum is tested at each analysis that all of the cells have reached, on its
    values, and p is K times the smallest of these p values (Bonferroni): see the module `sequential`.
    """
    values = [(table.values(cell), sign) for cell, sign in signs]
    common = sorted(set.intersection(*(set(by_seed) for by_seed, _ in values)))
    differences = {seed: sum(sign * by_seed[seed] for by_seed, sign in values) for seed in common}
    scale = max((abs(by_seed[seed]) for by_seed, _ in values for seed in common), default=0.0)

    num_analyses = len(plan.analyses) if plan else 1
    overall = estimate(list(differences.values()), confidence=1 - (1 - confidence) / num_analyses, scale=scale)
    if plan is None:
        return PairedTest(overall, overall.p, 0 if overall.p is None else overall.n)

    ended = frozenset.intersection(*(table.ended(cell) for cell, _ in signs))
    tests = []
    for seeds in plan.reached(ended):
        analysed = [differences[seed] for seed in seeds if seed in differences]
        if (p := estimate(analysed, confidence=confidence, scale=scale).p) is not None:
            tests.append((min(1.0, num_analyses * p), len(analysed)))
    p, n = min(tests, key=lambda test: (test[0], -test[1]), default=(None, 0))
    return PairedTest(overall, p, n)


def holm(p_values: Sequence[float | None], family_size: int) -> list[float | None]:
    """Holm's step-down adjustment (1979, Scandinavian Journal of Statistics 6, 65-70) for a family of hypotheses.

    To reject the hypotheses with an adjusted p below α keeps the probability of any false rejection in the family at
    most α, for tests of any dependence. A hypothesis without a p value is not rejected and stays None; `family_size`
    decides whether it is counted.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (family_size - rank) * p))
        adjusted[index] = largest
    return adjusted
