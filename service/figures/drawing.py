"""Draws charts with matplotlib: SVG and PDF as vectors, PNG at 300 dpi, in a light palette, of an exact width.

Text is outlines in SVG and an embedded font in PDF, so that a figure looks the same everywhere. The height follows from
the content: the axes keep their proportions, whatever the labels and the legend take.
"""

import io
import threading
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from service.figures.chart import Chart, Series
from service.figures.fitting import fitted, turned
from service.figures.parallel import parallel_lines

if TYPE_CHECKING:  # matplotlib takes a second to import, and most processes draw nothing
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

Picture = Literal["svg", "pdf", "png"]

COLUMN_MM, PAGE_MM = 84, 174
"""The usual widths of one and of two columns of a paper, in millimetres."""
DPI = 300
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
"""The palette of Okabe and Ito, which most colour-blind people can distinguish. Markers and dashes distinguish too."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
"""One more than colours, so that a colour that is used again has another marker."""
DASHES: Sequence[Any] = ("-", (0, (4, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (8, 3)))
PAD_IN = 0.05
INK = "#24282d"
GRID = "#d9dce1"

SETTINGS: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # matplotlib comes with it
    "font.size": 8,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "legend.fontsize": 7.5,
    "pdf.fonttype": 42,  # TrueType: conferences refuse Type 3
    "svg.fonttype": "path",
    "svg.hashsalt": "normlab",
    "text.color": INK,
    "text.parse_math": False,  # names are text
    "xtick.color": INK,
    "xtick.labelsize": 7.5,
    "ytick.color": INK,
    "ytick.labelsize": 7.5,
}
_UNDATED: Mapping[Picture, Mapping[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": "normlab", "Producer": None},
    "png": {"Software": None},
}
_LOCK = threading.Lock()
"""matplotlib may be used by one thread at a time."""


def draw(chart: Chart, picture: Picture, *, width_mm: float = PAGE_MM, titled: bool = False) -> bytes:
    """Draw a chart. The same chart gives the same bytes.

    Args:
        chart: The chart. It must not be empty.
        picture: The format.
        width_mm: Width in millimetres. The height follows.
        titled: Whether the title is above the chart. In a paper the caption has it.
    """
    assert not chart.is_empty
    from matplotlib import rc_context

    with _LOCK, rc_context(SETTINGS):
        figure = _drawn(chart, width_mm / 25.4, titled)
        written = io.BytesIO()
        figure.savefig(written, format=picture, dpi=DPI, metadata=dict(_UNDATED[picture]))
    content = written.getvalue()
    return _as_image(content.decode(), chart).encode() if picture == "svg" else content


def _as_image(svg: str, chart: Chart) -> str:
    """Return an SVG that can stand in a page, with its description for those who cannot see it."""
    label = f"{chart.title}: {chart.y_label} by {chart.x_label}, lines: {', '.join(s.name for s in _named(chart))}"
    return svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(label, quote=True)}" ', 1)


def _named(chart: Chart) -> list[Series]:
    """Return the series of the legend: the first of each name."""
    return list({series.name: series for series in reversed(chart.series)}.values())[::-1]


def _drawn(chart: Chart, width: float, titled: bool) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = min(max(0.56 * width, 1.7), 3.2)
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.15, 0.15, 0.8, 0.8))
    lines = _plot(chart, axes, (0.8 * width) / len(chart.categories) if chart.categories else 0)
    _scale(chart, axes)
    legend = _legend(figure, chart, lines, width)
    title = figure.text(0, 1, fitted(chart.title, width - 2 * PAD_IN, 8.5), size=8.5, va="top") if titled else None
    axes.set_ylabel(fitted(chart.y_label, height, 8))
    if chart.y_categories is not None:
        axes.set_yticks(range(len(chart.y_categories)), [fitted(name, 0.3 * width, 7.5) for name in chart.y_categories])
    above = _height(legend) + (_height(title) if title else 0)
    left = right = bottom = 0.4
    rotation = 0
    for _ in range(3):  # the labels depend on the width of the axes, and the margins on the labels
        across = max(width - left - right, 0.3 * width)
        total = height + bottom + above + 3 * PAD_IN
        figure.set_size_inches(width, total)
        axes.set_position((left / width, bottom / total, across / width, height / total))
        axes.set_xlabel(fitted(chart.x_label, across, 8))
        # Labels that were turned once stay so: their margins leave room for labels that are not, which need others.
        if chart.categories is not None and rotation == 0:
            labels, rotation = turned(chart.categories, across / len(chart.categories), 7.5)
            axes.set_xticks(range(len(labels)), labels, rotation=rotation)
        figure.draw_without_rendering()
        inside, outside = axes.get_window_extent(), axes.get_tightbbox()
        assert outside is not None
        left = (inside.x0 - outside.x0) / DPI + PAD_IN
        right = (outside.x1 - inside.x1) / DPI + PAD_IN
        bottom = (inside.y0 - outside.y0) / DPI + PAD_IN
    top = total - PAD_IN
    if title is not None:
        title.set_position((PAD_IN / width, top / total))
        top -= _height(title)
    if legend is not None:
        legend.set_bbox_to_anchor((PAD_IN / width, top / total))
    return figure


def _plot(chart: Chart, axes: "Axes", slot: float) -> list[Any]:
    """Draw the series, and return a line of each for the legend. `slot` is the width of a category in inches."""
    if chart.kind == "parallel":
        return parallel_lines(chart, axes, COLOURS, INK, slot)
    axes.grid(axis="both" if chart.kind == "scatter" else "y")
    count = len(chart.series)
    step = min(0.1, 0.7 / count)
    size = min(4.0, max(2.0, 72 * slot * step * 1.4))
    lines = []
    for number, series in enumerate(chart.series):
        colour = COLOURS[series.colour % len(COLOURS)]
        dashes = DASHES[(series.dash + series.colour // len(COLOURS)) % len(DASHES)]
        style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.0}
        if chart.kind == "scatter":
            lines += _marks(axes, series, (number - (count - 1) / 2) * step if chart.categories else 0)
            continue
        if chart.categories is not None:
            lines.append(_bars(axes, series, len(chart.categories), (number - (count - 1) / 2) * step, size, style))
            continue
        drawn = [point for point in series.points if point.y is not None]
        alone: dict[str, Any] = {"marker": "o", "markersize": 3} if len(drawn) == 1 else {}
        values = [float("nan") if point.y is None else point.y for point in series.points]
        lines += axes.plot([point.x for point in series.points], values, **style, **alone)
        band = [(point.x, point.low, point.high) for point in drawn if point.low is not None and point.high is not None]
        if band:
            x, low, high = zip(*band, strict=True)
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    return lines


def _marks(axes: "Axes", series: Series, shift: float) -> Any:
    """Draw the points of a series without a line."""
    drawn = [(point.x + shift, point.y) for point in series.points if point.y is not None]
    across, up = zip(*drawn, strict=True)
    style = {"color": COLOURS[series.colour % len(COLOURS)], "marker": MARKERS[series.colour % len(MARKERS)]}
    return axes.plot(across, up, linestyle="", markersize=3.5, markeredgewidth=0, alpha=0.75, **style)  # type: ignore[arg-type]


def _bars(axes: "Axes", series: Series, columns: int, shift: float, size: float, style: Mapping[str, Any]) -> Any:
    """Draw a series over categories, with its intervals as bars. A column without a value breaks the line."""
    nan = float("nan")
    points = {int(point.x): point for point in series.points}
    values, below, above = [nan] * columns, [nan] * columns, [nan] * columns
    for column, point in points.items():
        if point.y is not None:
            values[column] = point.y
            if point.low is not None and point.high is not None:
                below[column], above[column] = point.y - point.low, point.high - point.y
    drawn = axes.errorbar(
        [column + shift for column in range(columns)],
        values,
        yerr=[below, above],
        marker=MARKERS[series.colour % len(MARKERS)],
        markersize=size,
        elinewidth=0.8,
        capsize=min(2.0, size / 2),
        capthick=0.8,
        **style,
    )
    axes.set_xlim(-0.5, columns - 0.5)
    return drawn.lines[0]


def _scale(chart: Chart, axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    if chart.kind == "lines" and all(float(point.x).is_integer() for one in chart.series for point in one.points):
        axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    logarithmic: list[XAxis | YAxis] = []
    if chart.kind == "scatter" and chart.categories is not None:
        axes.set_xlim(-0.5, len(chart.categories) - 0.5)
    if chart.y_categories is not None:
        axes.set_ylim(-0.5, len(chart.y_categories) - 0.5)
    if chart.log_x and chart.categories is None:
        axes.set_xscale("log", nonpositive="mask")
        logarithmic.append(axes.xaxis)
    if chart.log_y:
        axes.set_yscale("log", nonpositive="clip")
        logarithmic.append(axes.yaxis)
    for axis in logarithmic:
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    if chart.from_zero and not chart.log_y:
        axes.set_ylim(bottom=0)


def _legend(figure: "Figure", chart: Chart, lines: Sequence[Any], width: float) -> "Legend | None":
    """Put a legend above the axes, in as many columns as there is room for."""
    by_name = dict(zip([s.name for s in chart.series][::-1], lines[::-1], strict=True))
    handle, gap, size = 0.3, 0.16, 7.5
    names = [fitted(series.name, width - handle - 2 * gap, size) for series in _named(chart)]
    widest = max(_width(figure, name, size) for name in names) + handle + gap
    legend = figure.legend(
        [by_name[series.name] for series in _named(chart)],
        [str(number) for number in range(len(names))],  # a label that begins with _ would be left out
        loc="upper left",
        bbox_to_anchor=(0, 1),
        ncols=max(1, min(len(names), int((width - 2 * PAD_IN) / widest))),
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=handle * 72 / size,
        handletextpad=0.4,
        columnspacing=1.0,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)
    return legend


def _width(figure: "Figure", text: str, size: float) -> float:
    """Return the width of a text in inches."""
    artist = figure.text(0, 0, text, size=size)
    width = artist.get_window_extent().width / DPI
    artist.remove()
    return width


def _height(artist: Any) -> float:
    """Return the height of a part above the axes in inches, with the space below it."""
    return float(artist.get_window_extent().height) / DPI + PAD_IN
