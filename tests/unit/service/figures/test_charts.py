"""Charts show the numbers of the results and of the curves, with their reservations."""

import csv
import io
from statistics import mean, stdev

import pytest
from scipy import stats

from service.figures import Chart, Curve, Point, as_csv, cell_curves, job_curves, results_chart
from service.figures.curves import mean_curve
from tests.unit.service.report.tabulated import VALUES, results_of


def curve(*values: float | None, job: str = "a", metric: str = "test_error", first: float = 1) -> Curve:
    return Curve(job, metric, [first + number for number in range(len(values))], list(values))


def test_results_are_in_per_cent_by_column_with_their_intervals() -> None:
    chart = results_chart(results_of(VALUES, datasets=["cifar10"]))
    assert [series.name for series in chart.series] == ["batch", "group"]
    assert (chart.x_label, chart.y_label, chart.categories) == ("Batch size", "Test error (%)", ["32", "2"])
    first, second = chart.series[0].points
    assert (first.x, second.x) == (0, 1)
    assert first.y == pytest.approx(100 * mean(VALUES["batch", "32"]))
    reach = stats.t.ppf(0.975, 2) * 100 * stdev(VALUES["batch", "32"]) / 3**0.5
    assert (first.low, first.high) == pytest.approx((first.y - reach, first.y + reach))


def test_other_datasets_and_optimistic_values_are_named_at_the_axes() -> None:
    title = "best epoch (optimistic: chosen on the test set)"
    chart = results_chart(results_of(VALUES, statistic="best", statistic_title=title))
    assert chart.x_label == "Batch size [synthetic]"
    assert chart.y_label == f"Test error (%), {title}"
    assert job_curves([curve(0.5)], {"a": "a"}, datasets=["synthetic"]).x_label == "Epoch [synthetic]"


def test_rows_can_be_left_out_and_keep_their_colours() -> None:
    [series] = results_chart(results_of(VALUES), rows=["group"]).series
    assert (series.name, series.colour) == ("group", 1)


def test_there_is_nothing_to_draw_without_values() -> None:
    assert results_chart(results_of({})).is_empty
    assert job_curves([curve(None)], {"a": "a"}).is_empty
    assert not results_chart(results_of(VALUES)).is_empty


def test_csv_is_what_is_drawn() -> None:
    rows = list(csv.reader(io.StringIO(as_csv(results_chart(results_of(VALUES))))))
    assert rows[0] == ["series", "Batch size [synthetic]", "Test error (%)", "low", "high"]
    assert [row[:2] for row in rows[1:]] == [["batch", "32"], ["batch", "2"], ["group", "32"], ["group", "2"]]
    assert float(rows[1][2]) == pytest.approx(11)
    rows = list(csv.reader(io.StringIO(as_csv(job_curves([curve(0.5, None)], {"a": "one"})))))
    assert rows[1:] == [["one", "1", "50.0", "", ""], ["one", "2", "", "", ""]]


def test_a_job_with_several_metrics_has_a_colour_for_each() -> None:
    chart = job_curves([curve(0.5), curve(0.4, metric="train_error")], {"a": "one"})
    assert [(series.name, series.colour, series.dash) for series in chart.series] == [
        ("test error", 0, 0),
        ("train error", 1, 0),
    ]
    assert (chart.y_label, chart.title) == ("Error (%)", "Error (%), one")
    two = job_curves([curve(0.5), curve(0.4, job="b")], {"a": "one", "b": "two"}, across="step")
    assert [series.name for series in two.series] == ["one", "two"]
    assert (two.x_label, two.y_label) == ("Optimizer step", "Test error (%)")


def test_the_mean_of_seeds_has_an_interval_or_a_range() -> None:
    seeds = [[Point(1, value), Point(2, value / 2)] for value in (10.0, 12.0, 17.0)]
    [first, _] = mean_curve(seeds, "interval")
    expected = stats.t.interval(0.95, 2, loc=13, scale=stdev([10, 12, 17]) / 3**0.5)
    assert (first.y, first.low, first.high) == pytest.approx((13, *expected))
    assert mean_curve(seeds, "range") == [Point(1, 13, 10, 17), Point(2, 6.5, 5, 8.5)]
    assert mean_curve(seeds[:1], "interval") == seeds[0]


def test_seeds_are_interpolated_between_their_points_and_not_beyond() -> None:
    seeds = [[Point(0, 0.0), Point(2, 2.0)], [Point(1, 3.0), Point(2, None), Point(3, 5.0)]]
    assert [(point.x, point.y) for point in mean_curve(seeds, "range")] == [(0, 0), (1, 2), (2, 3), (3, 5)]


def test_cells_have_the_colour_of_their_row_and_the_dashes_of_their_column() -> None:
    cells = {
        ("group", "2"): [curve(0.5, 0.4), curve(0.6, 0.5, job="b")],
        ("batch", "4"): [curve(None, job="c")],
    }

    def drawn(spread: str) -> Chart:
        return cell_curves(cells, "test_error", rows=["batch", "group"], columns=["2", "4"], spread=spread)  # type: ignore[arg-type]

    [series] = drawn("interval").series
    assert (series.name, series.colour, series.dash) == ("group at 2", 1, 0)
    assert series.points[0].y == pytest.approx(55)
    assert drawn("interval").title == "Test error (%), mean and 95 % interval"
    assert [series.name for series in drawn("each").series] == ["group at 2", "group at 2"]
    assert drawn("each").series[0].points[0].low is None
