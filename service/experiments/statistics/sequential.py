"""Sequential seeds: cells that are undecided at an interim analysis get the seeds of the next one.

Procedure. K interim analyses are planned (`SeedPlan`). Every cell starts with the seeds of the first. Each comparison
of two rows within a column is tested on the values of each analysis that both of its cells have reached. K times the
smallest of these p values, P, is adjusted for all comparisons of the table (Holm); those with an adjusted P below α are
resolved. Cells of a comparison that is not resolved get the seeds up to the next analysis; other cells get none.

The probability of resolving any difference that does not exist (the family-wise error) is at most α:

1.  Consider all planned seeds of all cells, and a comparison whose true difference is 0. Its test at analysis k is an
    ordinary paired t test on seeds that were fixed beforehand, so Pr(p_k ≤ α/K) ≤ α/K, and Pr(min p_k ≤ α/K) ≤ α over
    the K analyses (union bound): P is a valid p value. The experiment observes the minimum over some of the analyses,
    which is no smaller. So P stays valid for every rule that selects the cells to continue, and every stopping time.
2.  Holm's procedure (1979) controls the family-wise error for p values of any dependence, and hence for P.
3.  P can only decrease from one analysis to the next, and so can its adjusted value. A comparison that was resolved
    stays resolved, and counts as resolved in later steps of Holm's procedure, without a special rule. It stays resolved
    even if later values contradict it, because its share of α has been spent; its interval is of all values, and shows
    the contradiction.

Simulation, tests/benchmarks/sequential_seeds.py (4,000 experiments a line; one column, three rows, differences with a
standard deviation of 1, analyses at 3, 5 and 10 seeds; fixed: 10 seeds for every cell): family-wise error, power of a
comparison, and seeds per cell.

    true means       error (fixed)    power (fixed)    seeds
    0, 0, 0          0.041 (0.045)                     10.0
    0, 0, 2          0.038 (0.048)    0.992 (0.999)     9.4
    0, 1, 2                           0.701 (0.842)     9.6
    0, 2, 4                           0.998 (1.000)     7.1

Seeds are saved where differences are large compared with their spread; a difference of 0 takes all of them.

The analyses share most of their values, so the true error is below α, at some cost in power. Group sequential designs
(Pocock 1977, Biometrika 64, 191-199; Jennison & Turnbull 2000, Group Sequential Methods) recover that power with
boundaries for one comparison of normal values with a known variance. Here there are a family of comparisons, few seeds
and an estimated variance, for which the union bound needs neither a table nor an approximation.

A job that ended without a value counts as ended: it does not delay the analysis, and its seed forms no pair. That is
valid as long as failing does not depend on the value that the job would have had. (A failed job that is retried after
its analysis changes that analysis, and may undo a result.) A cell without any value at an analysis gets no more seeds,
and other cells get none for the comparison with it. To sample less is always valid: see step 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.experiments.statistics.comparisons import compare
from service.experiments.statistics.intervals import checked_confidence
from service.experiments.statistics.observations import CellKey, Observation, Table
from service.experiments.statistics.plan import SeedPlan


@dataclass(frozen=True)
class Wanted:
    """An undecided cell, and its seeds up to the next interim analysis that no ended job has used."""

    cell: CellKey
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class InterimAnalysis:
    """The next interim analysis. It is due once all wanted seeds have ended, with a value or without."""

    number: int
    """From 1."""
    seeds: int
    """The number of seeds of each undecided cell at this analysis."""
    wanted: tuple[Wanted, ...]


def undecided_cells(
    observations: Iterable[Observation],
    plan: SeedPlan,
    *,
    cells: Sequence[tuple[str, str]],
    confidence: float = 0.95,
) -> InterimAnalysis | None:
    """Return the next interim analysis and the cells that need seeds for it.

    Seeds that are queued or running have no observation yet and are still included: submit only those without a job.
    The result is a function of the observations alone.

    Returns:
        None if every comparison is decided or all planned seeds are used.

    Raises:
        ValueError: The confidence is outside 0 to 1, or an observation is in none of `cells`.
    """
    checked_confidence(confidence)
    table = Table(observations, cells)
    undecided = set(table.cells)
    for number, size in enumerate(plan.analyses, start=1):
        seeds = plan.seeds[:size]
        wanted = tuple(
            Wanted(cell, missing)
            for cell in table.cells
            if cell in undecided and (missing := tuple(seed for seed in seeds if seed not in table.ended(cell)))
        )
        if wanted:
            return InterimAnalysis(number, size, wanted)
        undecided &= _undecided(table.within(set(seeds)), plan, confidence)
    return None


def _undecided(table: Table, plan: SeedPlan, confidence: float) -> set[CellKey]:
    """Return the cells of the comparisons that are not resolved and have values on both sides."""
    comparisons, _ = compare(table, confidence=confidence, plan=plan)
    return {
        CellKey(row, comparison.column)
        for comparison in comparisons
        if not comparison.resolved
        for row in (comparison.row_a, comparison.row_b)
        if table.values((comparison.row_a, comparison.column)) and table.values((comparison.row_b, comparison.column))
    }
