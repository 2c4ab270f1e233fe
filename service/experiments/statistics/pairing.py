"""Paired differences over seeds, tested once or at planned looks."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.experiments.statistics.intervals import Estimate, estimate
from service.experiments.statistics.observations import CellKey, Table
from service.experiments.statistics.plan import SeedPlan


@dataclass(frozen=True)
class PairedTest:
    """A paired difference and its p."""

    estimate: Estimate
    """Over all seeds there are. At planned looks the interval is wide enough to hold at whichever of them one stops."""
    p: float | None
    """Two-sided. At planned looks it is good for all of them together."""
    n: int
    """Seeds behind `p`; 0 without one."""


def paired_test(
    table: Table, signs: Sequence[tuple[CellKey, int]], *, confidence: float, plan: SeedPlan | None
) -> PairedTest:
    """The paired t test of the sum of some cells, each with its sign, over the seeds that all of them have a value for.

    With a plan of K looks the sum is tested at each look that all the cells have reached, on the values of that look,
    and p is K times the smallest of these p (Bonferroni); `service.experiments.statistics.sequential` says why.
    """
    values = [(table.values(cell), sign) for cell, sign in signs]
    common = sorted(set.intersection(*(set(by_seed) for by_seed, _ in values)))
    differences = {seed: sum(sign * by_seed[seed] for by_seed, sign in values) for seed in common}
    scale = max((abs(by_seed[seed]) for by_seed, _ in values for seed in common), default=0.0)

    num_looks = len(plan.looks) if plan else 1
    overall = estimate(list(differences.values()), confidence=1 - (1 - confidence) / num_looks, scale=scale)
    if plan is None:
        return PairedTest(overall, overall.p, 0 if overall.p is None else overall.n)

    ended = frozenset.intersection(*(table.ended(cell) for cell, _ in signs))
    tests = []
    for seeds in plan.reached(ended):
        look = [differences[seed] for seed in seeds if seed in differences]
        if (p := estimate(look, confidence=confidence, scale=scale).p) is not None:
            tests.append((min(1.0, num_looks * p), len(look)))
    p, n = min(tests, key=lambda test: (test[0], -test[1]), default=(None, 0))
    return PairedTest(overall, p, n)


def holm(p_values: Sequence[float | None], family_size: int) -> list[float | None]:
    """Holm's step-down adjustment (1979, Scandinavian Journal of Statistics 6, 65-70) for a family of hypotheses.

    Rejecting what comes out below α keeps the probability of any false rejection in the family at most α, however the
    tests depend on each other. A hypothesis without a p is not rejected and stays None; `family_size` says whether such
    are counted.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (family_size - rank) * p))
        adjusted[index] = largest
    return adjusted
