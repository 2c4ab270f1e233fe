"""A chart: what is drawn, independent of how."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lines", "scatter", "parallel"]
"""lines: a line for each series; scatter: its points alone; parallel: a line for each job through several axes."""


@dataclass(frozen=True)
class Point:
    """A point of a series, with its interval or range if it has one. A value that is not finite is None."""

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None
    job: str = ""
    """The title of its job, in a chart of jobs."""
    text: float | str = ""
    """Its value, where y is a place on one of several axes."""


@dataclass(frozen=True)
class Series:
    """Points that a line joins."""

    name: str
    points: Sequence[Point]
    colour: int
    """Number of the colour, and of the marker of a chart with categories."""
    dash: int = 0
    """Number of the dashes of the line: 0 is solid."""


@dataclass(frozen=True)
class Chart:
    """A chart of several series."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    kind: Kind = "lines"
    categories: Sequence[str] | None = None
    """Labels of a horizontal axis of categories: the x of a point is the index of one. Intervals are then bars. In
    parallel coordinates they are the titles of the vertical axes."""
    y_categories: Sequence[str] | None = None
    """Labels of a vertical axis of categories, of a scatter."""
    scales: Sequence[Sequence[tuple[float, str]]] = ()
    """The ticks of each axis of parallel coordinates, with their places from 0 to 1."""
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False
    """Whether the vertical axis starts at zero, unless it is logarithmic."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(point.y is not None for series in self.series for point in series.points)


def as_csv(chart: Chart) -> str:
    """Return what is drawn, one line for each point, in the units of the axes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if chart.kind == "parallel":
        writer.writerow(["series", "job", *(chart.categories or ())])
        for series in chart.series:
            writer.writerow([series.name, series.points[0].job, *(point.text for point in series.points)])
        return text.getvalue()
    if chart.kind == "scatter":
        writer.writerow(["series", "job", chart.x_label, chart.y_label])
        for series in chart.series:
            for point in series.points:
                y = None if point.y is None else _named(chart.y_categories, point.y)
                writer.writerow([series.name, point.job, _named(chart.categories, point.x), y])
        return text.getvalue()
    writer.writerow(["series", chart.x_label, chart.y_label, "low", "high"])
    for series in chart.series:
        for point in series.points:
            writer.writerow([series.name, _named(chart.categories, point.x), point.y, point.low, point.high])
    return text.getvalue()


def _named(categories: Sequence[str] | None, place: float) -> float | str:
    return place if categories is None else categories[int(place)]
