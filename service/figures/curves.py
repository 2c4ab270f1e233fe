"""Charts of learning curves: of jobs, and of the cells of a table with the spread of their seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.experiments.numbers import Number, percent
from service.experiments.statistics.intervals import t_quantile
from service.experiments.titles import with_datasets
from service.figures.chart import Chart, Point, Series
from worker.metrics import METRICS

Across = Literal["epoch", "step", "time"]
Spread = Literal["interval", "range", "each"]

X_LABELS: Mapping[Across, str] = {
    "epoch": "Epoch",
    "step": "Optimizer step",
    "time": "Time since the start (s)",
}


@dataclass(frozen=True)
class Curve:
    """The curve of a metric of a job, in the order of `x`. A value that is not finite is None."""

    job: str
    metric: str
    x: Sequence[float]
    value: Sequence[float | None]


def job_curves(
    curves: Sequence[Curve],
    names: Mapping[str, str],
    *,
    across: Across = "epoch",
    datasets: Iterable[str] = (),
    log_x: bool = False,
    log_y: bool = False,
) -> Chart:
    """Return the chart of the curves of jobs: a line for each job and metric.

    Args:
        curves: The curves.
        names: The name of each job.
        across: What x is.
        datasets: The datasets of the jobs.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is.
    """
    metrics = list(dict.fromkeys(curve.metric for curve in curves))
    jobs = list(dict.fromkeys(curve.job for curve in curves))
    series = []
    for curve in curves:
        colour, dash = jobs.index(curve.job), metrics.index(curve.metric)
        if len(jobs) == 1:
            colour, dash = dash, 0
        parts = [names[curve.job]] if len(jobs) > 1 or len(metrics) == 1 else []
        parts += [METRICS[curve.metric].title] if len(metrics) > 1 else []
        scale = Number(curve.metric).scale
        points = [Point(x, _scaled(y, scale)) for x, y in zip(curve.x, curve.value, strict=True)]
        series.append(Series(", ".join(parts), points, colour, dash))
    about = names[jobs[0]] if len(jobs) == 1 else ""
    return _chart(series, metrics, across, datasets, about=about, log_x=log_x, log_y=log_y)


def cell_curves(
    cells: Mapping[tuple[str, str], Sequence[Curve]],
    metric: str,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    spread: Spread = "interval",
    confidence: float = 0.95,
    across: Across = "epoch",
    datasets: Iterable[str] = (),
    log_x: bool = False,
    log_y: bool = False,
) -> Chart:
    """Return the chart of the curves of cells: a colour for each row, dashes for each column.

    Args:
        cells: The curves of the seeds by (row, column).
        metric: The metric.
        rows: Labels of all rows of the table, which number the colours.
        columns: Labels of all columns, which number the dashes.
        spread: interval: the mean with its t interval at every point; range: with the minimum and the maximum; each:
            a line for each seed.
        confidence: Of the interval.
        across: What x is.
        datasets: The datasets of the jobs.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is.
    """
    scale = Number(metric).scale
    series = []
    for (row, column), curves in cells.items():
        style = (f"{row} at {column}", rows.index(row), columns.index(column))
        seeds = [
            [Point(x, _scaled(y, scale)) for x, y in zip(curve.x, curve.value, strict=True)]
            for curve in curves
            if any(value is not None for value in curve.value)
        ]
        if spread == "each":
            series += [Series(style[0], points, *style[1:]) for points in seeds]
        elif seeds:
            series.append(Series(style[0], mean_curve(seeds, spread, confidence), *style[1:]))
    about = {"interval": f"mean and {percent(confidence)} interval", "range": "mean and range", "each": "every seed"}
    return _chart(series, [metric], across, datasets, about=about[spread], log_x=log_x, log_y=log_y)


def mean_curve(
    curves: Sequence[Sequence[Point]], spread: Literal["interval", "range"], confidence: float = 0.95
) -> list[Point]:
    """Return the mean of several curves with its interval or their range, at every x of any of them.

    Between its points a curve is interpolated linearly; beyond its ends it does not count.
    """
    finite = [[(point.x, point.y) for point in points if point.y is not None] for points in curves]
    at = [0] * len(finite)
    mean = []
    for x in sorted({x for points in finite for x, _ in points}):
        values = []
        for number, points in enumerate(finite):
            while at[number] + 1 < len(points) and points[at[number] + 1][0] <= x:
                at[number] += 1
            values += _value_at(points[at[number] : at[number] + 2], x)
        mean.append(_summary(x, values, spread, confidence))
    return mean


def _value_at(around: Sequence[tuple[float, float]], x: float) -> list[float]:
    if not around or x < around[0][0]:
        return []
    if x == around[0][0]:
        return [around[0][1]]
    if len(around) < 2:
        return []
    (before, low), (after, high) = around
    return [low + (high - low) * (x - before) / (after - before)]


def _summary(x: float, values: Sequence[float], spread: str, confidence: float) -> Point:
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Point(x, mean)
    if spread == "range":
        return Point(x, mean, min(values), max(values))
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    reach = t_quantile(len(values) - 1, 1 - confidence) * math.sqrt(variance / len(values))
    return Point(x, mean, mean - reach, mean + reach)


def _chart(
    series: Sequence[Series],
    metrics: Sequence[str],
    across: Across,
    datasets: Iterable[str],
    *,
    about: str,
    log_x: bool,
    log_y: bool,
) -> Chart:
    numbers = [Number(metric) for metric in metrics]
    axis = numbers[0].axis if len(numbers) == 1 else ""
    if len(numbers) > 1:
        quantity = METRICS[metrics[0]].quantity.replace("_", " ").capitalize()
        axis = f"{quantity} (%)" if numbers[0].is_error else quantity
    title = f"{axis}, {about}" if about else axis
    return Chart(
        title=title,
        x_label=with_datasets(X_LABELS[across], datasets),
        y_label=axis,
        series=series,
        log_x=log_x,
        log_y=log_y,
        from_zero=any(METRICS[metric].from_zero for metric in metrics),
    )


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale
