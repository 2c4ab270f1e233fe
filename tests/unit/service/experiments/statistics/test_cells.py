"""Cells: which jobs count, and the t interval of their mean."""

import math
import statistics

import numpy as np
import pytest

from service.experiments.statistics import Observation, analyse
from tests.unit.service.experiments.statistics.tables import observe, observe_rows


def test_a_mean_and_its_interval_by_hand() -> None:
    (cell,) = analyse(observe("batch", "2", [1.0, 2.0, 3.0, 6.0])).cells

    assert (cell.row, cell.column, cell.n, cell.mean, cell.min, cell.max) == ("batch", "2", 4, 3.0, 1.0, 6.0)
    assert cell.sd == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3))
    # 3.182 is the 0.975 quantile of t with 3 degrees of freedom in every printed table.
    reach = 3.182446 * math.sqrt(14 / 3) / 2
    assert cell.interval == pytest.approx((3 - reach, 3 + reach), rel=1e-6)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 3, 10, 50])
def test_the_interval_is_scipys(n: int, confidence: float) -> None:
    from scipy import stats

    values = np.random.default_rng(n).normal(0.1, 0.02, n)
    (cell,) = analyse(observe("batch", "2", list(map(float, values))), confidence=confidence).cells

    expected = stats.t.interval(confidence, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert cell.interval == pytest.approx(expected)
    assert cell.sd == pytest.approx(statistics.stdev(map(float, values)))


def test_intervals_at_95_percent_hold_the_truth_in_95_of_100_experiments() -> None:
    truth = 0.3
    for n in (3, 8):
        values = np.random.default_rng(n).normal(truth, 0.05, (100, 100, n)).tolist()
        held = 0
        for experiment in values:
            table = [o for row, cell in enumerate(experiment) for o in observe(str(row), str(n), cell)]
            # One column per row, so that there are no comparisons.
            alone = [Observation(o.row, o.row, o.seed, o.value, o.job) for o in table]
            held += sum(c.interval[0] <= truth <= c.interval[1] for c in analyse(alone).cells if c.interval)
        assert 9_400 <= held <= 9_600


def test_one_value_has_no_interval() -> None:
    (cell,) = analyse(observe("batch", "2", [0.5])).cells

    assert (cell.n, cell.mean, cell.min, cell.max) == (1, 0.5, 0.5, 0.5)
    assert cell.sd is None
    assert cell.interval is None


def test_no_value_has_nothing() -> None:
    (cell,) = analyse(observe("batch", "2", [None, None])).cells

    assert (cell.n, cell.without_value) == (0, 2)
    assert (cell.mean, cell.sd, cell.interval, cell.min, cell.max) == (None,) * 5
    assert cell.jobs == ()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-300, 0.0])
def test_equal_values_show_no_spread_and_claim_no_certainty(value: float) -> None:
    (cell,) = analyse(observe("batch", "2", [value] * 3)).cells

    assert cell.mean == cell.min == cell.max == value
    assert cell.sd == 0
    assert cell.interval is None


def test_a_job_without_a_value_is_counted_and_left_out() -> None:
    (cell,) = analyse(observe("batch", "2", [0.2, None, 0.4])).cells

    assert (cell.n, cell.without_value) == (2, 1)
    assert cell.mean == pytest.approx(0.3)
    assert cell.jobs == ("batch/2/0", "batch/2/2")


def test_the_retry_of_a_failed_job_counts() -> None:
    (cell,) = analyse(
        [Observation("batch", "2", 0, None, "job_1"), Observation("batch", "2", 0, 0.25, "job_2")],
    ).cells

    assert (cell.n, cell.mean, cell.without_value, cell.repeated, cell.jobs) == (1, 0.25, 0, 1, ("job_2",))


def test_repeating_a_job_that_has_a_value_changes_nothing() -> None:
    first = Observation("batch", "2", 0, 0.25, "job_1")
    again = [Observation("batch", "2", 0, 0.01, "job_2"), Observation("batch", "2", 0, None, "job_3")]

    (cell,) = analyse([*again, first]).cells

    assert (cell.n, cell.mean, cell.repeated, cell.jobs) == (1, 0.25, 2, ("job_1",))


def test_cells_stand_in_the_order_of_the_design_with_those_that_have_nothing_yet() -> None:
    cells = [("group", "32"), ("group", "2"), ("batch", "32"), ("batch", "2")]

    found = analyse(observe("batch", "2", [0.5]), cells=cells).cells

    assert [(cell.row, cell.column) for cell in found] == cells
    assert [cell.n for cell in found] == [0, 0, 0, 1]


def test_without_a_design_numbers_are_sorted_by_size() -> None:
    table = observe("group", "8", [0.1]) + observe("batch", "16", [0.1]) + observe("batch", "2", [0.1])

    assert [(cell.row, cell.column) for cell in analyse(table).cells] == [
        ("batch", "2"),
        ("batch", "16"),
        ("group", "8"),
    ]


def test_an_observation_outside_of_the_design_is_refused() -> None:
    with pytest.raises(ValueError, match="job batch/4/0 is in batch, 4, which is not among the cells"):
        analyse(observe("batch", "4", [0.5]), cells=[("batch", "2")])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"value of job job_1 is -?(nan|inf): give a finite number, or None"):
        Observation("batch", "2", 0, value, "job_1")


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.1, math.nan])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ValueError, match=rf"confidence is {confidence}: give a number between 0 and 1"):
        analyse(observe_rows({"batch": [0.1, 0.2]}), confidence=confidence)


def test_an_empty_table_says_nothing() -> None:
    analysis = analyse([])

    assert (analysis.cells, analysis.comparisons, analysis.interaction, analysis.family_size) == ((), (), None, 0)
