"""Properties of the statistics for any table: invariance to order, shifts and units."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import service.experiments.statistics
from service.experiments.statistics import Analysis, Observation, SeedPlan, analyse

PLANS = st.sampled_from(
    [None, SeedPlan(seeds=(0, 1, 2, 3), analyses=(2, 4)), SeedPlan(seeds=(3, 1, 0, 2), analyses=(3, 4))]
)
# Multiples of 1/64 far below 2**20 have exact sums, shifts and doublings, so results can be tested for equality.
VALUES = st.none() | st.integers(-(2**14), 2**14).map(lambda value: value / 64)


@st.composite
def tables(draw: st.DrawFn) -> list[Observation]:
    """Up to 3 × 3 cells of up to 4 seeds, some of which are repeated."""
    places = st.tuples(st.sampled_from("abc"), st.sampled_from(("2", "8", "32")), st.integers(0, 3))
    return [
        Observation(row, column, seed, draw(VALUES), f"job_{number:02}")
        for number, (row, column, seed) in enumerate(draw(st.lists(places, max_size=40)))
    ]


def means(analysis: Analysis) -> list[float | None]:
    return [cell.mean for cell in analysis.cells]


def p_values(analysis: Analysis) -> list[float | None]:
    tests: list[Any] = [*analysis.comparisons, *(analysis.interaction.contrasts if analysis.interaction else ())]
    return [p for test in tests for p in (test.p, test.p_adjusted)]


def approximately(values: list[float | None]) -> list[object]:
    return [None if value is None else pytest.approx(value, rel=1e-6, abs=1e-9) for value in values]


@settings(deadline=None)
@given(tables(), PLANS, st.randoms(use_true_random=False))
def test_the_order_in_which_jobs_are_listed_does_not_matter(
    table: list[Observation], plan: SeedPlan | None, random: Random
) -> None:
    shuffled = sorted(table, key=lambda _: random.random())

    assert analyse(shuffled, plan=plan) == analyse(table, plan=plan)


@settings(deadline=None)
@given(tables(), PLANS, st.integers(-1000, 1000))
def test_adding_a_constant_moves_means_and_no_difference(
    table: list[Observation], plan: SeedPlan | None, constant: int
) -> None:
    moved = [replace(o, value=None if o.value is None else o.value + constant) for o in table]

    before, after = analyse(table, plan=plan), analyse(moved, plan=plan)

    assert means(after) == approximately([None if mean is None else mean + constant for mean in means(before)])
    assert after.comparisons == before.comparisons
    assert p_values(after) == p_values(before)


@settings(deadline=None)
@given(tables(), PLANS, st.sampled_from([0.25, 2.0, 1024.0]))
def test_the_unit_does_not_matter(table: list[Observation], plan: SeedPlan | None, factor: float) -> None:
    """Fractions and percentages have the same p and the same number of seeds needed."""
    scaled = [replace(o, value=None if o.value is None else o.value * factor) for o in table]

    before, after = analyse(table, plan=plan), analyse(scaled, plan=plan)

    assert means(after) == [None if mean is None else mean * factor for mean in means(before)]
    assert p_values(after) == p_values(before)
    assert [c.seeds_needed for c in after.comparisons] == [c.seeds_needed for c in before.comparisons]
    assert (after.interaction is None) == (before.interaction is None)


@settings(deadline=None)
@given(tables(), PLANS)
def test_a_is_to_b_as_b_is_to_a(table: list[Observation], plan: SeedPlan | None) -> None:
    rows, columns = sorted({o.row for o in table}), sorted({o.column for o in table})

    def found(rows: list[str]) -> dict[tuple[str, ...], tuple[float | None, ...]]:
        analysis = analyse(table, cells=[(row, column) for row in rows for column in columns], plan=plan)
        return {
            (c.column, *sorted((c.row_a, c.row_b))): (
                None if c.difference is None else c.difference * (1 if c.row_a < c.row_b else -1),
                c.sd,
                c.p,
                c.p_adjusted,
            )
            for c in analysis.comparisons
        }

    assert found(rows) == found(rows[::-1])


@settings(deadline=None)
@given(tables(), PLANS)
def test_what_is_said_hangs_together(table: list[Observation], plan: SeedPlan | None) -> None:
    analysis = analyse(table, plan=plan)

    for cell in analysis.cells:
        assert (cell.mean is None) == (cell.n == 0)
        assert (cell.sd is None) == (cell.n < 2)
        assert (cell.interval is None) == (not cell.sd)
        assert len(cell.jobs) == cell.n
        if cell.mean is not None and cell.min is not None and cell.max is not None:
            assert cell.min <= cell.mean <= cell.max
    tried = {(o.row, o.column, o.seed) for o in table}
    assert sum(cell.n + cell.without_value for cell in analysis.cells) == len(tried)
    assert sum(cell.repeated for cell in analysis.cells) == len(table) - len(tried)
    for c in analysis.comparisons:
        assert c.resolved == (c.p_adjusted is not None and c.p_adjusted < 0.05)
        assert (c.p is None) == (c.p_adjusted is None) == (c.n_tested == 0)
        assert c.p is None or c.p_adjusted is None or c.p <= c.p_adjusted <= 1
        assert c.seeds_needed is None or (1 <= c.seeds_needed <= 1000 and not c.resolved)


def test_every_public_name_exists() -> None:
    assert sorted(service.experiments.statistics.__all__) == service.experiments.statistics.__all__
    assert all(hasattr(service.experiments.statistics, name) for name in service.experiments.statistics.__all__)


def test_importing_it_takes_no_numpy_and_no_scipy() -> None:
    """The API imports the statistics at its start, and all of scipy would take longer than everything else."""
    program = "import sys, service.experiments.statistics; print(*sorted({'numpy', 'scipy'} & set(sys.modules)))"
    root = Path(__file__).parents[5]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
