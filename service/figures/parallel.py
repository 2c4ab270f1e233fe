"""Draws parallel coordinates: a line for each job through its values on several vertical axes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from service.figures.chart import Chart
from service.figures.fitting import fitted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 6.5
"""Of the ticks, in points."""


def parallel_lines(chart: Chart, axes: "Axes", colours: Sequence[str], ink: str, slot: float) -> list[Any]:
    """Draw the lines and the axes with their ticks, and return the lines in the order of the series.

    `slot` is the room of an axis in inches.
    """
    nan = float("nan")
    lines: list[Any] = []
    for series in chart.series:
        values = [nan if point.y is None else point.y for point in series.points]
        colour = colours[series.colour % len(colours)]
        lines += axes.plot([point.x for point in series.points], values, color=colour, linewidth=0.7, alpha=0.6)
        for at in _alone(values):
            axes.plot([at], [values[at]], marker="o", markersize=1.8, color=colour)
    for at, ticks in enumerate(chart.scales):
        axes.plot([at, at], [0, 1], color=ink, linewidth=0.8)
        for place, text in ticks:
            axes.annotate(
                fitted(text, 0.85 * slot, SIZE),
                (at, place),
                (3, 0),
                textcoords="offset points",
                ha="left",
                va="center",
                size=SIZE,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            )
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0)
    for spine in ("left", "bottom"):
        axes.spines[spine].set_visible(False)
    return lines


def _alone(values: Sequence[float]) -> list[int]:
    """Return the places of values between two gaps, which no line reaches."""
    around = [math.isnan(value) for value in (math.nan, *values, math.nan)]
    return [at for at in range(len(values)) if around[at : at + 3] == [True, False, True]]
