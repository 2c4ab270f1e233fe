"""Interim analyses: which cells get more seeds, and that repeated testing keeps the error rate."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from service.experiments.statistics import (
    Analysis,
    InterimAnalysis,
    Observation,
    SeedPlan,
    analyse,
    plan_analyses,
    undecided_cells,
)
from tests.unit.service.experiments.statistics.tables import comparison, observe, observe_rows

PLAN = SeedPlan(seeds=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), analyses=(3, 5, 10))


def wanted(analysis: InterimAnalysis | None) -> dict[tuple[str, str], tuple[int, ...]]:
    assert analysis is not None
    return {(w.cell[0], w.cell[1]): w.seeds for w in analysis.wanted}


def run(values: NDArray[np.float64], plan: SeedPlan) -> tuple[list[Observation], Analysis]:
    """A sequential experiment of one column (rows × seeds), from the first seed to the final analysis."""
    rows = [str(row) for row in range(len(values))]
    cells = [(row, "2") for row in rows]
    observations: list[Observation] = []
    while analysis := undecided_cells(observations, plan, cells=cells):
        for want in analysis.wanted:
            row = want.cell.row
            observations += observe(row, "2", {seed: float(values[int(row), seed]) for seed in want.seeds})
    return observations, analyse(observations, cells=cells, plan=plan)


@pytest.mark.parametrize(
    ("minimum", "maximum", "sizes"),
    [(3, 10, (3, 5, 10)), (3, 3, (3,)), (2, 3, (2, 3)), (3, 4, (3, 4)), (5, 8, (5, 8)), (3, 30, (3, 5, 8, 12, 18, 30))],
)
def test_analyses_are_few_and_grow(minimum: int, maximum: int, sizes: tuple[int, ...]) -> None:
    assert plan_analyses(minimum, maximum) == sizes


@settings(deadline=None)
@example(minimum=3, more=1)
@given(st.integers(2, 50), st.integers(0, 500))
def test_any_minimum_and_maximum_make_a_plan(minimum: int, more: int) -> None:
    sizes = plan_analyses(minimum, minimum + more)

    SeedPlan(seeds=tuple(range(minimum + more)), analyses=sizes)
    assert sizes[0] == minimum


@pytest.mark.parametrize(
    ("minimum", "maximum", "message"), [(1, 5, "min is 1: give at least 2"), (4, 3, "max is 3, below")]
)
def test_analyses_that_cannot_be_planned(minimum: int, maximum: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_analyses(minimum, maximum)


@pytest.mark.parametrize("sizes", [(), (1, 3), (3, 3), (3, 2), (2,), (2, 4)])
def test_a_plan_has_increasing_numbers_up_to_all_seeds(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="with 3 seeds: give increasing numbers from 2 on, the last one 3"):
        SeedPlan(seeds=(0, 1, 2), analyses=sizes)


def test_a_plan_spends_a_seed_once() -> None:
    with pytest.raises(ValueError, match="give each seed once"):
        SeedPlan(seeds=(0, 1, 1), analyses=(3,))


def test_every_cell_starts_with_the_seeds_of_the_first_look() -> None:
    plan = SeedPlan(seeds=(7, 3, 5, 4), analyses=(3, 4))

    analysis = undecided_cells([], plan, cells=[("a", "2"), ("b", "2")])

    assert analysis is not None
    assert (analysis.number, analysis.seeds) == (1, 3)
    assert wanted(analysis) == {("a", "2"): (7, 3, 5), ("b", "2"): (7, 3, 5)}


def test_nothing_is_decided_before_every_cell_has_reached_the_look() -> None:
    apart = observe_rows({"a": [9.0, 9.1, 9.2], "b": [1.0, 1.0, 1.0], "c": [5.0, 5.0]})

    analysis = undecided_cells(apart, PLAN, cells=[(row, "2") for row in "abc"])

    assert analysis is not None
    assert analysis.number == 1
    assert wanted(analysis) == {("c", "2"): (2,)}


def test_only_undecided_cells_get_more_seeds() -> None:
    """Rows a and b are equal, and c is far from both."""
    table = observe_rows({"a": [1.0, 1.2, 0.9], "b": [1.1, 1.0, 1.0], "c": [90.0, 90.1, 90.1]})

    analysis = undecided_cells(table, PLAN, cells=[(row, "2") for row in "abc"])

    assert analysis is not None
    assert (analysis.number, analysis.seeds) == (2, 5)
    assert wanted(analysis) == {("a", "2"): (3, 4), ("b", "2"): (3, 4)}


def test_columns_are_decided_by_themselves() -> None:
    table = observe_rows({"a": [1.0, 1.1, 1.2], "b": [90.0, 90.0, 90.1]}, "2")
    table += observe_rows({"a": [1.0, 1.1, 1.2], "b": [1.1, 1.0, 1.2]}, "32")

    analysis = undecided_cells(table, PLAN, cells=[(row, column) for row in "ab" for column in ("2", "32")])

    assert wanted(analysis) == {("a", "32"): (3, 4), ("b", "32"): (3, 4)}


def test_it_ends_where_all_is_decided() -> None:
    table = observe_rows({"a": [1.0, 1.1, 1.2], "b": [90.0, 90.0, 90.1]})

    assert undecided_cells(table, PLAN, cells=[("a", "2"), ("b", "2")]) is None


def test_it_ends_where_the_seeds_are_spent() -> None:
    alike = np.random.default_rng(1).normal(size=(2, 10))

    observations, analysis = run(alike, PLAN)

    assert len(observations) == 20
    assert not analysis.comparisons[0].resolved


def test_one_cell_alone_has_nothing_to_decide_after_its_first_look() -> None:
    assert undecided_cells(observe("a", "2", [1.0, 1.1, 1.2]), PLAN, cells=[("a", "2")]) is None


def test_a_job_that_failed_does_not_hold_up_the_look() -> None:
    table = observe_rows({"a": [1.0, None, 1.2], "b": [1.1, 1.0, 1.3]})

    analysis = undecided_cells(table, PLAN, cells=[("a", "2"), ("b", "2")])

    assert analysis is not None
    assert analysis.number == 2


def test_a_cell_without_any_value_is_given_up_and_holds_nobody() -> None:
    table = observe_rows({"a": [1.0, 1.1, 1.2], "b": [None, None, None], "c": [90.0, 90.0, 90.1]})

    assert undecided_cells(table, PLAN, cells=[(row, "2") for row in "abc"]) is None


def test_asking_again_answers_the_same() -> None:
    table = observe_rows({"a": [1.0, 1.2, 0.9], "b": [1.1, 1.0, 1.0], "c": [90.0, 90.1, 90.1]})
    cells = [(row, "2") for row in "abc"]

    assert undecided_cells(table[::-1], PLAN, cells=cells) == undecided_cells(table, PLAN, cells=cells)


def test_p_counts_the_looks() -> None:
    a, b = [0.5, 0.7, 0.6], [0.3, 0.6, 0.35]

    found = comparison(analyse(observe_rows({"a": a, "b": b}), plan=PLAN), "a", "b")

    once = stats.ttest_rel(a, b)
    assert found.p == found.p_adjusted == pytest.approx(3 * once.pvalue)
    assert found.n_tested == 3
    assert found.interval == pytest.approx(stats.ttest_rel(a, b).confidence_interval(1 - 0.05 / 3))


def test_intervals_of_cells_are_as_wide_as_it_takes_at_all_looks() -> None:
    (cell,) = analyse(observe("a", "2", [0.5, 0.7, 0.6]), plan=PLAN).cells

    expected = stats.t.interval(1 - 0.05 / 3, 2, loc=0.6, scale=0.1 / 3**0.5)
    assert cell.interval == pytest.approx(expected)


def test_seeds_needed_counts_the_looks() -> None:
    a = [0.5, 0.7, 0.6]
    found = comparison(analyse(observe_rows({"a": a, "b": [0.45, 0.5, 0.58]}), plan=PLAN), "a", "b")

    mean, sd = found.difference, found.sd
    assert mean is not None
    assert sd is not None
    needed = (n for n in range(4, 1000) if 2 * stats.t.sf(mean / (sd / n**0.5), n - 1) < 0.05 / 3)
    assert found.seeds_needed == next(needed) - 3


def test_between_looks_p_stands_still() -> None:
    at_the_look = analyse(observe_rows({"a": [0.5, 0.7, 0.6], "b": [0.3, 0.6, 0.35]}), plan=PLAN)
    later = analyse(observe_rows({"a": [0.5, 0.7, 0.6, 0.6], "b": [0.3, 0.6, 0.35, 0.1]}), plan=PLAN)

    assert later.comparisons[0].p == at_the_look.comparisons[0].p
    assert (later.comparisons[0].n, later.comparisons[0].n_tested) == (4, 3)


def test_before_the_first_look_there_is_no_p() -> None:
    found = comparison(analyse(observe_rows({"a": [0.5, 0.7], "b": [0.3, 0.6]}), plan=PLAN), "a", "b")

    assert (found.n, found.p, found.n_tested, found.resolved) == (2, None, 0, False)
    assert found.difference == pytest.approx(0.15)


def test_a_resolved_comparison_stays_resolved() -> None:
    early = {"a": [90.0, 90.2, 90.1], "b": [1.0, 1.1, 1.2]}
    against = {"a": [*early["a"], -500.0, -200.0], "b": [*early["b"], 300.0, 100.0]}

    before = comparison(analyse(observe_rows(early), plan=PLAN), "a", "b")
    after = comparison(analyse(observe_rows(against), plan=PLAN), "a", "b")

    assert before.resolved
    assert after.resolved
    assert after.p == before.p
    assert (after.n, after.n_tested) == (5, 3)
    assert after.interval is not None
    assert after.interval[0] < 0 < after.interval[1]


def test_the_family_counts_those_without_a_p_too() -> None:
    table = observe_rows({"a": [1.0, 1.1, 1.2], "b": [1.5, 1.2, 1.9]})

    analysis = analyse(table, cells=[(row, "2") for row in "abc"], plan=PLAN)

    found = comparison(analysis, "a", "b")
    assert analysis.family_size == 3
    assert found.p is not None
    assert found.p_adjusted == pytest.approx(min(1, 3 * found.p))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_p_never_rises_as_seeds_come_in(seed: int, rows: int) -> None:
    values = np.random.default_rng(seed).normal(size=(rows, 10)) + np.arange(rows)[:, None]
    cells = [(str(row), "2") for row in range(rows)]

    def adjusted(n: int) -> list[float]:
        table = observe_rows({str(row): cell[:n].tolist() for row, cell in enumerate(values)})
        return [
            1.0 if c.p_adjusted is None else c.p_adjusted for c in analyse(table, cells=cells, plan=PLAN).comparisons
        ]

    steps = [adjusted(n) for n in range(11)]

    assert all(later <= earlier for a, b in pairwise(steps) for earlier, later in zip(a, b, strict=True))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(3, 4))
def test_the_order_in_which_jobs_end_decides_nothing(seed: int, rows: int) -> None:
    """An analysis after every job and one after all jobs lead to the same seeds."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 10)) + 2 * rng.normal(size=rows)[:, None]
    cells = [(str(row), "2") for row in range(rows)]
    one_by_one: list[Observation] = []
    while analysis := undecided_cells(one_by_one, PLAN, cells=cells):
        waiting = [(want.cell.row, seed) for want in analysis.wanted for seed in want.seeds]
        row, next_seed = waiting[rng.integers(len(waiting))]
        one_by_one += observe(row, "2", {next_seed: float(values[int(row), next_seed])})

    all_together, final = run(values, PLAN)

    assert {(o.row, o.seed) for o in one_by_one} == {(o.row, o.seed) for o in all_together}
    assert analyse(one_by_one, cells=cells, plan=PLAN) == final


@pytest.mark.parametrize("different", [0, 1], ids=["all alike", "one apart"])
def test_looking_often_resolves_what_is_not_there_in_at_most_5_of_100_experiments(different: int) -> None:
    rng = np.random.default_rng(20 + different)
    sims, wrong = 1_200, 0
    for _ in range(sims):
        values = rng.normal(size=(3 + different, 10)) + rng.normal(size=10)
        values[3:] += 4
        _, analysis = run(values, PLAN)
        wrong += any(c.resolved for c in analysis.comparisons if "3" not in (c.row_a, c.row_b))
    assert wrong / sims <= 0.05 + 3 * (0.05 * 0.95 / sims) ** 0.5


def test_intervals_hold_at_whatever_look_one_stops() -> None:
    rng = np.random.default_rng(23)
    sims, held = 1_200, 0
    for _ in range(sims):
        values = rng.normal(size=(2, 10))
        values[1] += 2
        _, analysis = run(values, PLAN)
        interval = analysis.comparisons[0].interval
        held += interval is not None and interval[0] <= -2 <= interval[1]
    assert held / sims >= 0.95 - 3 * (0.05 * 0.95 / sims) ** 0.5


def test_decided_cells_save_seeds_and_little_power() -> None:
    rng = np.random.default_rng(24)
    sims, spent, found, at_once = 300, 0, 0, 0
    for _ in range(sims):
        values = rng.normal(size=(3, 10)) / 2**0.5 + 2 * np.arange(3)[:, None]
        observations, analysis = run(values, PLAN)
        spent += len(observations)
        found += sum(c.resolved for c in analysis.comparisons)
        at_once += sum(
            c.resolved for c in analyse(observe_rows(dict(zip("abc", values.tolist(), strict=True)))).comparisons
        )
    assert spent / (sims * 30) < 0.8
    assert found / (sims * 3) > 0.98
    assert found > 0.98 * at_once
