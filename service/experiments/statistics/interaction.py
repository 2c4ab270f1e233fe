"""The interaction: whether the effect of the rows depends on the columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from service.experiments.statistics.observations import CellKey, Table
from service.experiments.statistics.pairing import holm, paired_test
from service.experiments.statistics.plan import SeedPlan

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Contrast:
    """The change of the difference between two rows from the first column to the last.

    (a - b in the last column) - (a - b in the first), over the seeds for which all four cells have a value: a paired t
    test, which assumes nothing about other cells and no equal variances. Fields as those of `Comparison`.
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
    """`p`, adjusted for all contrasts of the table (Holm 1979): a family separate from that of the comparisons."""
    resolved: bool


@dataclass(frozen=True)
class Interaction:
    """Whether the differences between rows change from the first column to the last, and an F test of rows × columns.

    The F test, with the seeds as blocks, compares the model value = row + column + seed with value = cell + seed. It
    assumes that the effect of a seed is the same in every cell, and that residuals are independent and normal with the
    same variance in all cells. That of BatchNorm grows as the batch shrinks, and the test then rejects too often. The
    decision is therefore made by the contrasts.
    """

    n: int
    """The number of values in the test."""
    f: float
    df: int
    """Degrees of freedom of the interaction."""
    df_residual: int
    p: float
    """In a sequential experiment multiplied by the number of interim analyses, and valid for all of them."""
    resolved: bool
    """A contrast is resolved."""
    contrasts: tuple[Contrast, ...]


def interact(table: Table, *, confidence: float, plan: SeedPlan | None) -> Interaction | None:
    """Test the interaction of rows and columns by least squares; cells and seeds may be missing.

    In a sequential experiment it is tested at the last interim analysis that every cell has reached, because the cells
    with further seeds were selected by their values.

    Returns:
        None if there is nothing to test: one row or column, no degrees of freedom for the interaction or for the
        residual, or values that the full model fits exactly.
    """
    seeds: tuple[int, ...] | None = None
    if plan:
        ended = frozenset.intersection(*(table.ended(cell) for cell in table.cells)) if table.cells else frozenset()
        *_, seeds = (), *plan.reached(ended)
    values = [
        (table.rows.index(cell.row), table.columns.index(cell.column), seed, value)
        for cell in table.cells
        for seed, value in table.values(cell).items()
        if seeds is None or seed in seeds
    ]
    if not values:
        return None
    rows, columns, blocks, observed = zip(*values, strict=True)
    cells = [row * len(table.columns) + column for row, column in zip(rows, columns, strict=True)]
    additive, additive_rank = _residual([rows, columns, blocks], observed)
    full, full_rank = _residual([cells, blocks], observed)
    df, df_residual = full_rank - additive_rank, len(observed) - full_rank
    if df < 1 or df_residual < 1 or full <= len(observed) * (_ROUNDING * max(map(abs, observed))) ** 2:
        return None

    from scipy.special import fdtrc

    f = max(0.0, additive - full) / df / (full / df_residual)
    p = min(1.0, float(fdtrc(df, df_residual, f)) * (len(plan.analyses) if plan else 1))
    contrasts = _contrasts(table, confidence=confidence, plan=plan)
    return Interaction(
        n=len(observed),
        f=f,
        df=df,
        df_residual=df_residual,
        p=p,
        resolved=any(contrast.resolved for contrast in contrasts),
        contrasts=contrasts,
    )


def _residual(factors: Sequence[Sequence[int]], values: Sequence[float]) -> tuple[float, int]:
    """Return the residual sum of squares of the additive model of some factors, and the rank of the model.

    The factor with the most levels is eliminated in closed form, by subtracting the means of its levels. The remaining
    normal equations are small and consist of counts, so that their numerical rank is exact.
    """
    import numpy as np

    levels = sorted((np.unique(factor, return_inverse=True)[1] for factor in factors), key=lambda level: -level.max())
    first, *others = levels
    counts = np.bincount(first)
    starts = np.cumsum([0, *(level.max() + 1 for level in others)])
    indices = [start + level for start, level in zip(starts[:-1], others, strict=True)]
    crossed = np.zeros((len(counts), starts[-1]))
    equations = np.zeros((starts[-1], starts[-1]))
    for index in indices:
        np.add.at(crossed, (first, index), 1)
        for other in indices:
            np.add.at(equations, (index, other), 1)
    equations -= crossed.T @ (crossed / counts[:, None])

    def without_first(values: Any) -> Any:
        return values - (np.bincount(first, values) / counts)[first]

    residual = without_first(np.asarray(values) - np.mean(values))
    sums = sum(np.bincount(index, residual, starts[-1]) for index in indices)
    solution, _, rank, _ = np.linalg.lstsq(equations, sums, rcond=1e-10)
    residual = without_first(residual - sum(solution[index] for index in indices))
    return float(residual @ residual), len(counts) + int(rank)


def _contrasts(table: Table, *, confidence: float, plan: SeedPlan | None) -> tuple[Contrast, ...]:
    first, last = table.columns[0], table.columns[-1]
    rows = [row for row in table.rows if {(row, first), (row, last)} <= set(table.cells)]
    pairs = list(combinations(rows, 2))
    tests = [
        paired_test(
            table,
            [(CellKey(a, last), 1), (CellKey(b, last), -1), (CellKey(a, first), -1), (CellKey(b, first), 1)],
            confidence=confidence,
            plan=plan,
        )
        for a, b in pairs
    ]
    adjusted = holm([test.p for test in tests], len(tests) if plan else sum(test.p is not None for test in tests))
    return tuple(
        Contrast(
            row_a=a,
            row_b=b,
            column_first=first,
            column_last=last,
            n=test.estimate.n,
            difference=test.estimate.mean,
            sd=test.estimate.sd,
            interval=test.estimate.interval,
            p=test.p,
            p_adjusted=p_adjusted,
            resolved=p_adjusted is not None and p_adjusted < 1 - confidence,
        )
        for (a, b), test, p_adjusted in zip(pairs, tests, adjusted, strict=True)
    )
