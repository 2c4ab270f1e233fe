"""A chart: what is drawn, independent of how."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A point of a series, with its interval or range if it has one. A value that is not finite is None."""

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None


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
    categories: Sequence[str] | None = None
    """Labels of a horizontal axis of categories: the x of a point is the index of one. Intervals are then bars."""
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
    writer.writerow(["series", chart.x_label, chart.y_label, "low", "high"])
    for series in chart.series:
        for point in series.points:
            x = chart.categories[int(point.x)] if chart.categories is not None else point.x
            writer.writerow([series.name, x, point.y, point.low, point.high])
    return text.getvalue()
