"""The figure of a report: the metric by column, one line per row, with intervals (Wu & He 2018, Figure 1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 20, 52
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
"""The palette of Okabe and Ito, which most colour-blind people can distinguish. Markers distinguish the rows too."""
MARKERS = ("circle", "square", "triangle", "diamond")
DODGE = 7
"""Horizontal distance in pixels between the intervals of two rows, so that they do not overlap."""


@dataclass(frozen=True)
class Point:
    """A cell of the table: the mean, and its interval if it has one."""

    column: int
    mean: float
    low: float | None
    high: float | None


def figure(results: Mapping[str, Any], scale: float, axis: str) -> str | None:
    """Draw the results as SVG. Returns None if no cell has a value.

    Args:
        results: The response of `GET /v1/experiments/{id}/results`.
        scale: Factor of the values in the figure.
        axis: Label of the vertical axis.
    """
    columns = [value["label"] for value in results["columns"]["values"]]
    rows = [value["label"] for value in results["rows"]["values"]]
    points = {row: _points(results, row, columns, scale) for row in rows}
    values = [
        value
        for row in points.values()
        for point in row
        for value in (point.mean, point.low, point.high)
        if value is not None
    ]
    if not values:
        return None
    ticks = _ticks(min(values), max(values))
    plot = _Plot(len(columns), ticks[0], ticks[-1])
    field = f"{results['columns']['field']} ({', '.join(results['datasets'])})"
    parts = [*_frame(plot, columns, ticks, axis, field)]
    for index, row in enumerate(rows):
        shift = (index - (len(rows) - 1) / 2) * DODGE
        parts += _line(plot, points[row], index, shift)
    parts += _legend(rows)
    label = escape(f"{axis} by {results['columns']['field']}, one line for each {results['rows']['field']}", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{label}" font-family="system-ui, sans-serif" font-size="12" fill="#60646c">'
        + "".join(parts)
        + "</svg>"
    )


@dataclass(frozen=True)
class _Plot:
    columns: int
    low: float
    high: float

    def x(self, column: int) -> float:
        return LEFT + (column + 0.5) * (WIDTH - LEFT - RIGHT) / self.columns

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def _points(results: Mapping[str, Any], row: str, columns: Sequence[str], scale: float) -> list[Point]:
    cells = {cell["column"]: cell for cell in results["cells"] if cell["row"] == row and cell["mean"] is not None}
    return [
        Point(index, cells[column]["mean"] * scale, *(_scaled(cells[column]["interval"], scale)))
        for index, column in enumerate(columns)
        if column in cells
    ]


def _scaled(interval: Sequence[float] | None, scale: float) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval[0] * scale, interval[1] * scale)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers that enclose all values."""
    span = (high - low) or abs(high) or 1.0
    rough = span / 4
    magnitude = 10.0 ** floor(log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough)
    first, last = floor(low / step), ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _frame(plot: _Plot, columns: Sequence[str], ticks: Sequence[float], axis: str, field: str) -> list[str]:
    parts = []
    for tick in ticks:
        y = plot.y(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884" />')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for index, column in enumerate(columns):
        x = plot.x(index)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{escape(column)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(field)}</text>')
    height = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text transform="translate(16 {height:.1f}) rotate(-90)" text-anchor="middle">{escape(axis)}</text>')
    return parts


def _line(plot: _Plot, points: Sequence[Point], index: int, shift: float) -> list[str]:
    colour = COLOURS[index % len(COLOURS)]
    path = " ".join(f"{plot.x(point.column) + shift:.1f},{plot.y(point.mean):.1f}" for point in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-opacity="0.6" />']
    for point in points:
        x = plot.x(point.column) + shift
        if point.low is not None and point.high is not None:
            low, high = plot.y(point.low), plot.y(point.high)
            parts.append(
                f'<path d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6" '
                f'stroke="{colour}" stroke-width="1.5" fill="none" />'
            )
        parts.append(_marker(x, plot.y(point.mean), index))
    return parts


def _marker(x: float, y: float, index: int) -> str:
    colour = COLOURS[index % len(COLOURS)]
    match MARKERS[index % len(MARKERS)]:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" />'
        case "square":
            return f'<rect x="{x - 3.7:.1f}" y="{y - 3.7:.1f}" width="7.4" height="7.4" fill="{colour}" />'
        case "triangle":
            return f'<path d="M{x:.1f} {y - 5:.1f}l4.6 8.4h-9.2z" fill="{colour}" />'
        case _:
            return f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z" fill="{colour}" />'


def _legend(rows: Sequence[str]) -> list[str]:
    parts = []
    for index, row in enumerate(rows):
        y = TOP + 10 + 22 * index
        parts.append(_marker(WIDTH - RIGHT + 24, y, index))
        parts.append(f'<text x="{WIDTH - RIGHT + 38}" y="{y + 4}">{escape(row)}</text>')
    return parts
