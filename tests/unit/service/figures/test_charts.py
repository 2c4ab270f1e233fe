"""Charts show the numbers of the results and of the curves, with their reservations."""

import csv
import io
import math
from statistics import mean, stdev
from typing import Any

import pytest
from scipy import stats

from service.experiments.quantities import Measured, Quantity
from service.figures import (
    Chart,
    Curve,
    Point,
    as_csv,
    cell_curves,
    comparison_chart,
    grouped,
    job_curves,
    parallel_chart,
    results_chart,
    scatter_chart,
)
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


def measured(id_: str, kind: str, batch_size: int, error: float | None, **labels: str) -> Measured:
    spec = {"normalization": {"type": kind}, "batch_size": batch_size, "dataset": {"name": "synthetic"}}
    summary = {} if error is None else {"test_error": {"last": error, "best": error / 2}}
    return Measured(id_, f"job {id_}", spec, summary, labels, 60.0)


JOBS = [
    measured("a", "batch", 2, 0.5, arm="b10"),
    measured("b", "layer", 8, 0.25, arm="b9"),
    measured("c", "batch", 400, None),
]
ERROR, SIZE, ARM, KIND = (Quantity.parse(name) for name in ("test_error", "batch_size", "labels.arm", "normalization"))


def csv_of(chart: Chart) -> list[list[str]]:
    return list(csv.reader(io.StringIO(as_csv(chart))))


def test_jobs_are_points_of_any_two_quantities_and_labels_are_categories() -> None:
    chart = scatter_chart(grouped(JOBS, KIND), SIZE, ERROR, datasets=["synthetic"])
    assert (chart.x_label, chart.y_label) == ("Batch size [synthetic]", "Last test error (%)")
    assert csv_of(chart) == [
        ["series", "job", "Batch size [synthetic]", "Last test error (%)"],
        ["batch", "job a", "2", "50.0"],
        ["layer", "job b", "8", "25.0"],
    ]
    named = scatter_chart(grouped(JOBS, KIND), ARM, Quantity.parse("test_error.best"), log_x=True)
    assert (named.categories, named.log_x) == (["b9", "b10"], False)
    assert [row[2:] for row in csv_of(named)[1:]] == [["b10", "25.0"], ["b9", "12.5"]]
    [series] = scatter_chart(grouped(JOBS, KIND), SIZE, ERROR, shown=lambda name: name == "layer").series
    assert (series.name, series.colour) == ("layer", 1)


def test_jobs_are_lines_through_several_quantities_with_gaps() -> None:
    chart = parallel_chart(grouped(JOBS, KIND), [SIZE, ERROR, ARM], datasets=["synthetic"])
    assert chart.x_label == "3 jobs [synthetic]"
    assert csv_of(chart) == [
        ["series", "job", "Batch size", "Last test error (%)", "Label arm"],
        ["batch", "job a", "2", "50.0", "b10"],
        ["batch", "job c", "400", "", ""],
        ["layer", "job b", "8", "25.0", "b9"],
    ]
    first, gap, _ = chart.series
    assert [point.y for point in first.points] == [0, 1, 1]
    assert gap.points[1].y is None
    # The batch sizes span a factor of 200: their axis is logarithmic.
    assert chart.series[2].points[0].y == pytest.approx(math.log(4) / math.log(200))
    assert [[text for _, text in ticks] for ticks in chart.scales] == [["2", "400"], ["25", "50"], ["b9", "b10"]]


def test_groups_beyond_the_colours_are_one() -> None:
    many = [measured(str(n), "batch", 2 + n % 10, 0.5) for n in range(30)]
    assert list(grouped(many, SIZE)) == [*map(str, range(2, 9)), "others"]
    assert len(grouped(many, SIZE)["others"]) == 9


def compared() -> dict[str, Any]:
    results = results_of(VALUES)
    titles = {"exp_1": "first", "exp_2": "second"}
    return results | {"experiments": [results | {"experiment": id_, "title": title} for id_, title in titles.items()]}


def test_experiments_have_the_colour_of_the_row_and_their_own_dashes() -> None:
    chart = comparison_chart(compared())
    assert [(series.name, series.colour, series.dash) for series in chart.series] == [
        ("batch: first", 0, 0),
        ("batch: second", 0, 1),
        ("group: first", 1, 0),
        ("group: second", 1, 1),
    ]
    assert chart.x_label == "Batch size [synthetic]"
    [only] = comparison_chart(compared(), lines={("group", "exp_2")}).series
    assert (only.name, only.colour, only.dash) == ("group: second", 1, 1)


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
