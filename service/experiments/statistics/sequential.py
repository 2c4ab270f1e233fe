"""Seeds where they are needed: cells that are undecided at a look are sampled up to the next one.

The procedure. K looks are planned (`SeedPlan`). Every cell gets the seeds of the first look. At a look each comparison
of two rows in a column has a p from the values of each look that both its cells have reached; K times the smallest of
them, P, is adjusted by Holm over all comparisons of the table, and those below α are resolved. Cells that take part in
a comparison that is not resolved get the seeds up to the next look; the others get no more.

Why the probability of resolving any difference that is not there stays at most α (the family-wise error):

1.  Imagine all planned seeds of all cells. Take a comparison whose true difference is 0. Its test at look k is an
    ordinary paired t test on seeds fixed beforehand, so Pr(p_k ≤ α/K) ≤ α/K, and Pr(min p_k ≤ α/K) ≤ α over the K looks
    (the union bound): P is a p like any other. What the experiment sees is the smallest over some of the looks, which
    is no smaller: whatever decides which cells go on, and whenever one stops, P stays valid.
2.  Holm's procedure (1979) keeps the family-wise error for any p, however they depend on each other: hence for P.
3.  P can only fall from look to look, and so can what Holm makes of it: what was resolved at a look stays resolved, and
    counts as resolved in Holm's later steps, with no rule for it. A comparison that later values speak against stays
    resolved: its share of α was spent. Its interval is of all values, and shows it.

Simulated by tests/benchmarks/sequential_seeds.py (4,000 experiments a line, one column, three rows, a spread of
differences of 1, looks at 3, 5 and 10 seeds; fixed: 10 seeds for all at once): family-wise error, power a comparison,
and seeds spent a cell.

    true means       error (fixed)    power (fixed)    seeds
    0, 0, 0          0.041 (0.045)                     10.0
    0, 0, 2          0.038 (0.048)    0.992 (0.999)     9.4
    0, 1, 2                           0.701 (0.842)     9.6
    0, 2, 4                           0.998 (1.000)     7.1

It saves where differences are large beside their spread; a difference that is not there takes all seeds.

The looks share most of their values, so the true error is below α, at some cost in power. Group sequential designs
(Pocock 1977, Biometrika 64, 191-199; Jennison & Turnbull 2000, Group Sequential Methods) win it back with boundaries
for one comparison of normal values of known variance. Here there are a family, a handful of seeds and an estimated
variance, and the union bound needs no table and no approximation.

A job that ended without a value counts as ended, so it does not hold up the look, and its seed is no pair; that is
right as long as failing does not depend on what the value would have been. (A failed job that is retried after its look
changes that look, and may undo what it resolved.) A cell that has no value at all at a look is
given up: it is sampled no further, and nor are others for the comparison with it. Sampling less is always allowed: see
step 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.experiments.statistics.comparisons import compare
from service.experiments.statistics.intervals import checked_confidence
from service.experiments.statistics.observations import CellKey, Observation, Table
from service.experiments.statistics.plan import SeedPlan


@dataclass(frozen=True)
class Wanted:
    """A cell that is undecided, and its seeds up to the next look that no ended job has tried."""

    cell: CellKey
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Look:
    """The next look: it happens once every wanted seed has ended, with a value or without."""

    number: int
    """From 1."""
    seeds: int
    """How many seeds each undecided cell has at it."""
    wanted: tuple[Wanted, ...]


def undecided_cells(
    observations: Iterable[Observation],
    plan: SeedPlan,
    *,
    cells: Sequence[tuple[str, str]],
    confidence: float = 0.95,
) -> Look | None:
    """The next look and the cells that need seeds for it; None where all is decided or all planned seeds are spent.

    Seeds that are queued or running have no observation yet, so they are wanted still: submit only those that have no
    job. The same observations always get the same answer; nothing else is remembered from look to look.

    Raises `ValueError` for a confidence outside 0 to 1, and for an observation that is in none of `cells`.
    """
    checked_confidence(confidence)
    table = Table(observations, cells)
    undecided = set(table.cells)
    for number, size in enumerate(plan.looks, start=1):
        seeds = plan.seeds[:size]
        wanted = tuple(
            Wanted(cell, missing)
            for cell in table.cells
            if cell in undecided and (missing := tuple(seed for seed in seeds if seed not in table.ended(cell)))
        )
        if wanted:
            return Look(number, size, wanted)
        undecided &= _undecided(table.within(set(seeds)), plan, confidence)
    return None


def _undecided(table: Table, plan: SeedPlan, confidence: float) -> set[CellKey]:
    """The cells of comparisons that are not resolved and have values on both sides."""
    comparisons, _ = compare(table, confidence=confidence, plan=plan)
    return {
        CellKey(row, comparison.column)
        for comparison in comparisons
        if not comparison.resolved
        for row in (comparison.row_a, comparison.row_b)
        if table.values((comparison.row_a, comparison.column)) and table.values((comparison.row_b, comparison.column))
    }
