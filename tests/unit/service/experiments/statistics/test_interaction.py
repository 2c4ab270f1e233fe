"""The F test of the interaction of rows and columns, and the contrasts."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from service.experiments.statistics import Interaction, Observation, SeedPlan, analyse
from tests.unit.service.experiments.statistics.tables import observe

# Montgomery, Design and Analysis of Experiments, the example of a blocked factorial: the intensity at which a target
# is seen on a radar scope, at three levels of ground clutter, with two filters, by four operators, who are the blocks.
CLUTTER = {
    "low": {"filter 1": (90, 96, 100, 92), "filter 2": (86, 84, 92, 81)},
    "medium": {"filter 1": (102, 106, 105, 96), "filter 2": (87, 90, 97, 80)},
    "high": {"filter 1": (114, 112, 108, 98), "filter 2": (93, 91, 95, 83)},
}


def table_of(values: NDArray[np.float64]) -> list[Observation]:
    """Return a table of values of shape (rows, columns, seeds); NaN stands for a missing value."""
    return [
        Observation(f"row {r}", str(c), s, float(values[r, c, s]), f"{r}/{c}/{s}")
        for r, c, s in product(*map(range, values.shape))
        if not np.isnan(values[r, c, s])
    ]


def interaction_of(values: NDArray[np.float64]) -> Interaction | None:
    return analyse(table_of(values)).interaction


def anova(values: NDArray[np.float64]) -> tuple[float, int, int]:
    """Return F and the degrees of freedom of a complete table, by the textbook's sums of squares."""
    rows, columns, seeds = values.shape
    mean = values.mean()
    total = ((values - mean) ** 2).sum()
    of_rows = columns * seeds * ((values.mean((1, 2)) - mean) ** 2).sum()
    of_columns = rows * seeds * ((values.mean((0, 2)) - mean) ** 2).sum()
    of_cells = seeds * ((values.mean(2) - mean) ** 2).sum()
    of_seeds = rows * columns * ((values.mean((0, 1)) - mean) ** 2).sum()
    df, df_residual = (rows - 1) * (columns - 1), (rows * columns - 1) * (seeds - 1)
    return (of_cells - of_rows - of_columns) / df / ((total - of_cells - of_seeds) / df_residual), df, df_residual


def regression(values: NDArray[np.float64]) -> tuple[float, int, int]:
    """Return the same for any table, by fitting both models with one indicator per level."""
    present = np.argwhere(~np.isnan(values))
    y = values[tuple(present.T)]

    def fit(*labels: NDArray[np.int64]) -> tuple[float, int]:
        design = np.hstack([label[:, None] == np.unique(label) for label in labels]).astype(float)
        residual = y - design @ np.linalg.pinv(design) @ y
        return float(residual @ residual), int(np.linalg.matrix_rank(design))

    row, column, seed = present.T
    additive, additive_rank = fit(row, column, seed)
    full, full_rank = fit(row * 100 + column, seed)
    df, df_residual = full_rank - additive_rank, len(y) - full_rank
    return (additive - full) / df / (full / df_residual), df, df_residual


def test_a_textbook_example() -> None:
    table = [
        o for row, cells in CLUTTER.items() for column, values in cells.items() for o in observe(row, column, values)
    ]

    found = analyse(table).interaction

    assert found is not None
    assert (found.df, found.df_residual, found.n) == (2, 15, 24)
    assert found.f == pytest.approx(3.48, abs=0.005)
    assert found.p == pytest.approx(0.0575, abs=0.0005)
    assert not found.resolved


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 2, 4), (2, 5, 3), (4, 4, 10)])
def test_a_complete_table_is_the_analysis_of_variance(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    values = rng.normal(size=shape) + rng.normal(size=shape[:2])[:, :, None] + rng.normal(size=shape[2]) * 3

    found = interaction_of(values)

    f, df, df_residual = anova(values)
    assert found is not None
    assert (found.df, found.df_residual) == (df, df_residual)
    assert found.f == pytest.approx(f)
    assert found.p == pytest.approx(stats.f.sf(f, df, df_residual))


@pytest.mark.parametrize("missing", [0.1, 0.4])
@pytest.mark.parametrize("shape", [(3, 3, 4), (2, 6, 5), (5, 3, 12)])
def test_a_table_with_holes_is_the_regression(shape: tuple[int, int, int], missing: float) -> None:
    rng = np.random.default_rng(sum(shape))
    values = rng.normal(100, 1, shape) + rng.normal(size=shape[2])
    values[rng.random(shape) < missing] = np.nan
    values[0, 0] = np.nan  # a whole cell

    found = interaction_of(values)

    f, df, df_residual = regression(values)
    assert found is not None
    assert (found.df, found.df_residual) == (df, df_residual)
    assert found.f == pytest.approx(f)


def test_cells_that_share_few_seeds_are_the_regression() -> None:
    """A chain: each column has one seed in common with the next."""
    values = np.full((2, 40, 81), np.nan)
    for column in range(40):
        values[:, column, 2 * column : 2 * column + 3] = np.random.default_rng(column).normal(size=(2, 3))

    found = interaction_of(values)

    f, df, df_residual = regression(values)
    assert found is not None
    assert (found.df, found.df_residual) == (df, df_residual) == (39, 80)
    assert found.f == pytest.approx(f)


def test_what_the_seeds_and_the_margins_do_is_no_interaction() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(3, 4, 5))
    margins = 1e3 * np.arange(3)[:, None, None] + 1e4 * np.arange(4)[None, :, None] + 1e3 * rng.normal(size=5)

    plain, shifted = interaction_of(noise), interaction_of(noise + margins)

    assert plain is not None
    assert shifted is not None
    assert shifted.f == pytest.approx(plain.f, rel=1e-6)


def test_an_effect_that_depends_on_the_batch_size_is_seen() -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(0.1, 0.005, (2, 3, 3)) + rng.normal(0, 0.01, 3)
    values[0, 0] += 0.1  # BatchNorm at a batch of 2

    found = interaction_of(values)

    assert found is not None
    assert found.resolved
    assert found.p < 1e-6


@pytest.mark.parametrize("spread", [1, 4])
def test_an_interaction_that_is_not_there_is_resolved_in_at_most_5_of_100_tables(spread: float) -> None:
    rng = np.random.default_rng(7)
    sims = 1_500
    # The last column of the first row varies more, as BatchNorm does at small batches.
    scale = np.array([[1, spread], [1, 1], [1, 1]])[:, :, None]
    tables = (rng.normal(size=(3, 2, 3)) * scale + rng.normal(size=3) for _ in range(sims))
    found = [interaction for values in tables if (interaction := interaction_of(values))]
    limit = 0.05 + 3 * (0.05 * 0.95 / sims) ** 0.5

    assert 0.01 < sum(one.resolved for one in found) / sims < limit
    assert (sum(one.p < 0.05 for one in found) / sims > limit) == (spread > 1), "the F test assumes equal variances"


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).normal(size=(1, 3, 4)),
        np.random.default_rng(1).normal(size=(3, 1, 4)),
        np.random.default_rng(1).normal(size=(3, 3, 1)),
        np.broadcast_to(np.arange(4.0).reshape(2, 2, 1) ** 3 / 7, (2, 2, 5)),
        np.full((2, 2, 3), 0.1),
        np.zeros((2, 2, 3)),
        np.full((2, 2, 3), np.nan),
    ],
    ids=["one row", "one column", "one seed", "no residual", "all equal", "all zero", "nothing"],
)
def test_without_something_to_test_there_is_no_interaction(values: NDArray[np.float64]) -> None:
    assert interaction_of(values) is None


def test_a_contrast_is_the_difference_of_differences_between_the_last_and_the_first_column() -> None:
    values = np.random.default_rng(8).normal(size=(3, 4, 6))
    values[1, 3, 2] = np.nan

    found = interaction_of(values)

    assert found is not None
    assert [(c.row_a, c.row_b) for c in found.contrasts] == [
        ("row 0", "row 1"),
        ("row 0", "row 2"),
        ("row 1", "row 2"),
    ]
    contrast = found.contrasts[0]
    assert (contrast.column_first, contrast.column_last, contrast.n) == ("0", "3", 5)
    last, first = values[0, 3] - values[1, 3], values[0, 0] - values[1, 0]
    expected = stats.ttest_1samp((last - first)[~np.isnan(last)], 0)
    assert contrast.p == pytest.approx(expected.pvalue)
    assert contrast.interval == pytest.approx(expected.confidence_interval(0.95))
    smallest = min(c.p for c in found.contrasts if c.p is not None)
    assert min(c.p_adjusted for c in found.contrasts if c.p_adjusted is not None) == pytest.approx(min(1, 3 * smallest))


def test_first_and_last_column_are_those_of_the_design() -> None:
    values = np.random.default_rng(9).normal(size=(2, 3, 3))
    cells = [(f"row {r}", column) for r in range(2) for column in "210"]

    found = analyse(table_of(values), cells=cells).interaction

    assert found is not None
    assert (found.contrasts[0].column_first, found.contrasts[0].column_last) == ("2", "0")


def test_a_row_without_the_first_or_last_column_has_no_contrast() -> None:
    table = [o for o in table_of(np.random.default_rng(10).normal(size=(3, 3, 3))) if o.cell != ("row 1", "2")]

    found = analyse(table).interaction

    assert found is not None
    assert [(c.row_a, c.row_b) for c in found.contrasts] == [("row 0", "row 2")]


def test_in_a_sequential_experiment_it_is_tested_where_every_cell_has_been() -> None:
    values = np.random.default_rng(11).normal(size=(2, 2, 6))
    ragged = values.copy()
    ragged[0, 0, 3:] = np.nan
    plan = SeedPlan(seeds=tuple(range(6)), analyses=(3, 6))

    found = analyse(table_of(ragged), plan=plan).interaction

    at_the_look = interaction_of(values[:, :, :3])
    assert found is not None
    assert at_the_look is not None
    assert found.f == pytest.approx(at_the_look.f)
    assert found.n == 12
    assert found.p == pytest.approx(min(1, 2 * at_the_look.p))


def test_contrasts_are_a_family_of_those_that_have_a_p_and_at_planned_looks_of_all() -> None:
    values = np.random.default_rng(13).normal(size=(3, 2, 3))
    values[2, 0, :2] = np.nan

    at_once = analyse(table_of(values)).interaction
    cells = [(f"row {r}", str(c)) for r in range(3) for c in range(2)]
    none = [Observation("row 2", "0", seed, None, f"failed {seed}") for seed in range(2)]
    sequential = analyse([*table_of(values), *none], cells=cells, plan=SeedPlan((0, 1, 2), (3,))).interaction

    for found, family_size in ((at_once, 1), (sequential, 3)):
        assert found is not None
        contrast, *others = found.contrasts
        assert [c.p for c in others] == [None, None]
        assert contrast.p is not None
        assert contrast.p_adjusted == pytest.approx(min(1, family_size * contrast.p))


def test_before_the_first_look_there_is_nothing_to_test() -> None:
    values = np.random.default_rng(12).normal(size=(2, 2, 2))

    assert analyse(table_of(values), plan=SeedPlan(seeds=(0, 1, 2), analyses=(3,))).interaction is None
