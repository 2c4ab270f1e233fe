"""Charts of tables of results: the metric by column, one line per row (Wu & He 2018, Figure 1)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from service.experiments.numbers import Number, words
from service.experiments.titles import with_datasets
from service.figures.chart import Chart, Point, Series

Json = Mapping[str, Any]


def results_chart(results: Json, *, rows: Sequence[str] | None = None, log_y: bool = False) -> Chart:
    """Return the chart of results.

    Args:
        results: The response of `GET /v1/results`.
        rows: Labels of the rows to draw; default: all.
        log_y: Whether the vertical axis is logarithmic.
    """
    number = Number(results["metric"])
    columns = [value["label"] for value in results["columns"]["values"]]
    labels = [value["label"] for value in results["rows"]["values"]]
    field = words(results["columns"]["field"])
    statistic = "" if results["statistic"] == "final" else f", {results['statistic_title']}"
    return Chart(
        title=f"{number.title} by {field}, {results['statistic_title']}",
        x_label=with_datasets(field.capitalize(), results["datasets"]),
        y_label=f"{number.axis}{statistic}",
        series=[
            Series(label, _points(results, label, columns, number.scale), colour)
            for colour, label in enumerate(labels)
            if rows is None or label in rows
        ],
        categories=columns,
        log_y=log_y,
    )


def comparison_chart(
    comparison: Json, *, lines: Collection[tuple[str, str]] | None = None, log_y: bool = False
) -> Chart:
    """Return the chart of several experiments: a colour for each row, dashes for each experiment.

    Args:
        comparison: The response of `GET /v1/comparison`.
        lines: The row and the id of the experiment of the lines to draw; default: all.
        log_y: Whether the vertical axis is logarithmic.
    """
    number = Number(comparison["metric"])
    columns = [value["label"] for value in comparison["columns"]["values"]]
    field = words(comparison["columns"]["field"])
    statistic = "" if comparison["statistic"] == "final" else f", {comparison['statistic_title']}"
    series = [
        Series(f"{row}: {one['title']}", points, colour, dash)
        for colour, row in enumerate(value["label"] for value in comparison["rows"]["values"])
        for dash, one in enumerate(comparison["experiments"])
        if lines is None or (row, one["experiment"]) in lines
        if (points := _points(one, row, columns, number.scale))
    ]
    return Chart(
        title=f"{number.title} by {field}, {comparison['statistic_title']}",
        x_label=with_datasets(field.capitalize(), comparison["datasets"]),
        y_label=f"{number.axis}{statistic}",
        series=series,
        categories=columns,
        log_y=log_y,
    )


def _points(results: Json, row: str, columns: Sequence[str], scale: float) -> list[Point]:
    cells = {cell["column"]: cell for cell in results["cells"] if cell["row"] == row and cell["mean"] is not None}
    points = []
    for index, column in enumerate(columns):
        if column in cells:
            bounds = cells[column]["interval"] or (None, None)
            low, high = (None if bound is None else bound * scale for bound in bounds)
            points.append(Point(index, cells[column]["mean"] * scale, low, high))
    return points
