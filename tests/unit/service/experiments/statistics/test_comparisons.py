"""Paired differences, Holm's adjustment over the table, and the number of seeds needed."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from service.experiments.statistics import analyse
from service.experiments.statistics.pairing import holm
from tests.unit.service.experiments.statistics.tables import SLEEP_A, SLEEP_B, comparison, observe, observe_rows


def test_students_own_example() -> None:
    found = comparison(analyse(observe_rows({"a": SLEEP_A, "b": SLEEP_B})), "a", "b")

    assert (found.n, found.n_tested) == (10, 10)
    assert found.difference == pytest.approx(-1.58)
    assert found.sd == pytest.approx(1.229995, abs=1e-6)
    assert found.p == found.p_adjusted == pytest.approx(0.002833, abs=1e-6)
    assert found.interval == pytest.approx((-2.459886, -0.700114), abs=1e-6)
    assert found.resolved


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_p_and_interval_are_scipys(n: int) -> None:
    a, b = np.random.default_rng(n).normal(0.1, 0.02, (2, n))
    found = comparison(analyse(observe_rows({"a": a.tolist(), "b": b.tolist()})), "a", "b")

    expected = stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(expected.confidence_interval(0.95))


@pytest.mark.parametrize("distance", [1e3, 1e6])
def test_a_p_far_out_is_exact(distance: float) -> None:
    table = observe_rows({"a": [distance, distance + 1, distance + 3], "b": [0.0, 0.0, 0.0]})

    expected = stats.ttest_1samp([distance, distance + 1, distance + 3], 0).pvalue
    assert comparison(analyse(table), "a", "b").p == pytest.approx(expected, rel=1e-9)


def test_only_seeds_with_a_value_on_both_sides_are_paired() -> None:
    table = observe("a", "2", {0: 0.5, 1: 0.7, 2: None, 5: 0.9}) + observe("b", "2", {0: 0.4, 1: None, 2: 0.1, 5: 0.7})

    found = comparison(analyse(table), "a", "b")

    assert found.n == 2
    assert found.difference == pytest.approx(0.15)


def test_rows_are_compared_within_their_column() -> None:
    table = [o for row in "abc" for column in ("2", "32") for o in observe(row, column, [0.1, 0.2])]

    assert [(c.column, c.row_a, c.row_b) for c in analyse(table).comparisons] == [
        (column, *rows) for column in ("2", "32") for rows in (("a", "b"), ("a", "c"), ("b", "c"))
    ]


@pytest.mark.parametrize(("a", "b"), [([], []), ([0.1], [0.2]), ([0.1, None], [None, 0.2])])
def test_fewer_than_two_pairs_have_no_p(a: list[float | None], b: list[float | None]) -> None:
    analysis = analyse(observe_rows({"a": a, "b": b}), cells=[("a", "2"), ("b", "2")])
    found = comparison(analysis, "a", "b")

    assert (found.p, found.p_adjusted, found.interval, found.seeds_needed) == (None,) * 4
    assert (found.resolved, found.n_tested, analysis.family_size) == (False, 0, 0)


def test_the_same_run_twice_is_no_difference() -> None:
    found = comparison(analyse(observe_rows({"a": [0.1, 0.3, 0.2], "b": [0.1, 0.3, 0.2]})), "a", "b")

    assert (found.difference, found.sd, found.p, found.interval, found.resolved) == (0, 0, 1, None, False)
    assert found.seeds_needed is None


def test_differences_without_any_spread_are_not_trusted() -> None:
    """Differences that are equal up to rounding: 0.3 - 0.1, 0.5 - 0.3 and 1.1 - 0.9."""
    found = comparison(analyse(observe_rows({"a": [0.3, 0.5, 1.1], "b": [0.1, 0.3, 0.9]})), "a", "b")

    assert found.difference == pytest.approx(0.2)
    assert (found.sd, found.p, found.p_adjusted, found.interval, found.resolved) == (0, None, None, None, False)


def brute_force_holm(p_values: list[Fraction], alpha: Fraction) -> set[int]:
    """Holm's original procedure: the smallest p against α/m, the next against α/(m - 1), until one fails."""
    rejected: set[int] = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[index] >= alpha / (len(p_values) - rank):
            break
        rejected.add(index)
    return rejected


@settings(deadline=None)
@given(st.lists(st.fractions(0, 1, max_denominator=200), min_size=1, max_size=12), st.fractions("0.01", "0.2"))
def test_holm_rejects_what_the_procedure_rejects(p_values: list[Fraction], alpha: Fraction) -> None:
    # holm() accepts fractions, with which no rounding decides a tie.
    adjusted = holm(p_values, len(p_values))  # type: ignore[arg-type]

    assert {index for index, p in enumerate(adjusted) if p is not None and p < alpha} == brute_force_holm(
        p_values, alpha
    )


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005], 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None, 0.03], 2) == [pytest.approx(0.02), None, pytest.approx(0.03)]
    assert holm([0.01, None, 0.03], 3) == [pytest.approx(0.03), None, pytest.approx(0.06)]
    assert holm([0.6, 0.7], 2) == [1.0, 1.0]


def test_the_family_is_the_whole_table() -> None:
    rng = np.random.default_rng(1)
    table = [o for row in "abc" for column in "28" for o in observe(row, column, rng.normal(0, 1, 4).tolist())]

    analysis = analyse([*table, *observe("d", "8", [0.1])])

    p_values = [c.p for c in analysis.comparisons if c.p is not None]
    assert analysis.family_size == len(p_values) == 6
    adjusted = [c.p_adjusted for c in analysis.comparisons if c.p is not None]
    assert adjusted == pytest.approx(holm(p_values, 6))


@pytest.mark.parametrize("equal_rows", [5, 3])
def test_a_difference_that_is_not_there_is_resolved_in_at_most_5_of_100_tables(equal_rows: int) -> None:
    """Five rows: all equal, or three equal and two far from them, so that Holm's procedure steps down."""
    rng = np.random.default_rng(equal_rows)
    sims, wrong = 1_500, 0
    for _ in range(sims):
        values = rng.normal(0, 1, (5, 4)) + rng.normal(0, 1, 4)
        values[equal_rows:] += 50 * np.arange(1, 6 - equal_rows)[:, None]
        analysis = analyse(observe_rows({str(row): list(map(float, cell)) for row, cell in enumerate(values)}))
        wrong += any(c.resolved for c in analysis.comparisons if max(int(c.row_a), int(c.row_b)) < equal_rows)
    assert wrong / sims <= 0.05 + 3 * (0.05 * 0.95 / sims) ** 0.5


def test_paired_intervals_hold_the_truth_whatever_the_seeds_do() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(100):
        seeds = rng.normal(0, 10, 5)
        rows = {str(column): rng.normal(0, 1, 5) + seeds for column in range(200)}
        table = [
            o
            for column, values in rows.items()
            for o in observe(
                "a" if int(column) % 2 else "b", str(int(column) // 2), (values + int(column) % 2).tolist()
            )
        ]
        held += sum(c.interval[0] <= 1 <= c.interval[1] for c in analyse(table).comparisons if c.interval)
    assert 9_400 <= held <= 9_600


def passes(n: int, difference: float, sd: float, alpha: float) -> bool:
    return bool(2 * stats.t.sf(abs(difference) / (sd / n**0.5), n - 1) < alpha)


def test_seeds_needed_is_the_first_number_that_would_do() -> None:
    differences = [0.3, 1.4, 0.2, -0.4]
    found = comparison(analyse(observe_rows({"a": differences, "b": [0.0] * 4})), "a", "b")

    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))
    expected = next(n for n in range(5, 1000) if passes(n, mean, sd, 0.05))
    assert not found.resolved
    assert found.seeds_needed == expected - 4


def test_seeds_needed_knows_what_the_others_of_the_family_leave() -> None:
    """One of four comparisons is resolved, so the next must pass α/3."""
    rows = {"a": [0.0, 0.2, 0.1, 0.3], "b": [0.1, 0.4, -0.1, 0.6], "c": [0.3, 0.9, 0.2, -1.4]}
    apart = observe("d", "4", [9.0, 9.1, 9.2, 9.4]) + observe("e", "4", [0.0, 0.0, 0.0, 0.0])
    analysis = analyse(observe_rows(rows) + apart)

    assert analysis.family_size == 4
    assert sum(c.resolved for c in analysis.comparisons) == 1
    found = comparison(analysis, "a", "b")
    mean, sd = found.difference, found.sd
    assert mean is not None
    assert sd is not None
    by_family = [next(n for n in range(5, 1000) if passes(n, mean, sd, 0.05 / size)) - 4 for size in (2, 3, 4)]
    assert len(set(by_family)) == 3
    assert found.seeds_needed == by_family[1]


def test_seeds_needed_may_be_many_hundreds() -> None:
    differences = [1.0, -1.0, 2.0, -1.5]
    found = comparison(analyse(observe_rows({"a": differences, "b": [0.0] * 4})), "a", "b")

    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))
    expected = next(n for n in range(5, 2000) if passes(n, mean, sd, 0.05)) - 4
    assert 500 < expected < 1000
    assert found.seeds_needed == expected


def test_adding_the_seeds_needed_resolves_it_if_they_are_like_the_others() -> None:
    differences = [1.0, 2.0, 0.5, -0.3]
    found = comparison(analyse(observe_rows({"a": differences, "b": [0.0] * 4})), "a", "b")
    assert found.seeds_needed is not None
    mean, sd = float(np.mean(differences)), float(np.std(differences, ddof=1))

    def resolved_with(n: int) -> bool:
        values = np.linspace(-1, 1, n)
        alike = values / values.std(ddof=1) * sd + mean
        return comparison(analyse(observe_rows({"a": alike.tolist(), "b": [0.0] * n})), "a", "b").resolved

    assert resolved_with(4 + found.seeds_needed)
    assert not resolved_with(4 + found.seeds_needed - 1)


@pytest.mark.parametrize("differences", [[1.0, -1.0, 2.0, -2.0], [1.0, -1.0, 1.001, -1.0]])
def test_beyond_a_thousand_seeds_nothing_is_promised(differences: list[float]) -> None:
    assert comparison(analyse(observe_rows({"a": differences, "b": [0.0] * 4})), "a", "b").seeds_needed is None


def test_a_resolved_comparison_needs_no_seeds() -> None:
    found = comparison(analyse(observe_rows({"a": [5.0, 5.1, 5.2], "b": [1.0, 1.0, 1.0]})), "a", "b")

    assert found.resolved
    assert found.seeds_needed is None
