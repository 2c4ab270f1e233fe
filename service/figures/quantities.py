"""Charts of many jobs by any of their quantities: as points, and as lines through several of them side by side."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from service.experiments import axes
from service.experiments.numbers import NONE
from service.experiments.quantities import Measured, Quantity
from service.experiments.titles import with_datasets
from service.figures.chart import Chart, Point, Series

MOST_GROUPS = 8
OTHERS = "others"
Groups = Mapping[str, Sequence[Measured]]


def grouped(jobs: Sequence[Measured], by: Quantity) -> dict[str, list[Measured]]:
    """Return the jobs by the labels of a quantity, the most frequent first. Beyond `MOST_GROUPS` the rest is one."""
    found: dict[str, list[Measured]] = {}
    for job in jobs:
        found.setdefault(text_of(by.of(job)), []).append(job)
    names = sorted(found, key=lambda name: (-len(found[name]), _natural(name)))
    if len(names) <= MOST_GROUPS:
        return {name: found[name] for name in names}
    kept = names[: MOST_GROUPS - 1]
    return {name: found[name] for name in kept} | {OTHERS: [job for name in names[len(kept) :] for job in found[name]]}


def text_of(value: float | str | None) -> str:
    """Return a value as text; a dash for none."""
    return NONE if value is None else axes.label("", value)


def scatter_chart(
    groups: Groups,
    x: Quantity,
    y: Quantity,
    *,
    shown: Callable[[str], bool] = lambda _: True,
    datasets: Iterable[str] = (),
    log_x: bool = False,
    log_y: bool = False,
) -> Chart:
    """Return the chart of jobs as points, in the colours of their groups.

    Args:
        groups: The jobs by the name of their group.
        x: The horizontal axis.
        y: The vertical axis.
        shown: Whether a group is drawn.
        datasets: The datasets of the jobs.
        log_x: Whether the horizontal axis is logarithmic, where it is one of numbers.
        log_y: Whether the vertical axis is.
    """
    jobs = [job for members in groups.values() for job in members if None not in (x.of(job), y.of(job))]
    places = [_Axis(quantity, jobs) for quantity in (x, y)]
    series = []
    for colour, (name, members) in enumerate(groups.items()):
        values = [(job.title, x.of(job), y.of(job)) for job in members]
        points = [
            Point(places[0].place(across), places[1].place(up), job=title)
            for title, across, up in values
            if across is not None and up is not None
        ]
        if shown(name) and points:
            series.append(Series(name, points, colour))
    return Chart(
        title=f"{y.title} by {x.title[0].lower()}{x.title[1:]}",
        x_label=with_datasets(x.title, datasets),
        y_label=y.title,
        series=series,
        kind="scatter",
        categories=places[0].names,
        y_categories=places[1].names,
        log_x=log_x and places[0].names is None,
        log_y=log_y and places[1].names is None,
    )


def parallel_chart(
    groups: Groups,
    sides: Sequence[Quantity],
    *,
    shown: Callable[[str], bool] = lambda _: True,
    most: int = 300,
    datasets: Iterable[str] = (),
) -> Chart:
    """Return the chart of jobs as lines through their values on several vertical axes.

    A job without a value has a gap. The axis of numbers that span a factor of a hundred is logarithmic.

    Args:
        groups: The jobs by the name of their group.
        sides: The axes.
        shown: Whether a group is drawn.
        most: Number of lines at most.
        datasets: The datasets of the jobs.
    """
    drawn = [
        (name, colour, job) for colour, (name, members) in enumerate(groups.items()) if shown(name) for job in members
    ][:most]
    scales = [_Axis(side, [job for _, _, job in drawn]) for side in sides]
    series = []
    for name, colour, job in drawn:
        values = [side.of(job) for side in sides]
        points = [
            Point(at, None if value is None else scale.share(value), job=job.title, text="" if value is None else value)
            for at, (scale, value) in enumerate(zip(scales, values, strict=True))
        ]
        series.append(Series(name, points, colour))
    count = f"{len(drawn)} jobs" if len(drawn) != 1 else "1 job"
    return Chart(
        title=f"{count} by {', '.join(side.title for side in sides)}",
        x_label=with_datasets(count, datasets),
        y_label="",
        series=series,
        kind="parallel",
        categories=[side.title for side in sides],
        scales=[scale.ticks for scale in scales],
    )


def _natural(name: str) -> list[int | str]:
    """Return a sort key by which `group (16)` follows `group (8)`."""
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"([0-9]+)", name)]


class _Axis:
    """An axis of a quantity: numbers where all values are some, else names in their natural order."""

    def __init__(self, quantity: Quantity, jobs: Sequence[Measured]) -> None:
        values = [value for job in jobs if (value := quantity.of(job)) is not None]
        self._numbers = [value for value in values if not isinstance(value, str)]
        self.names = (
            None if len(self._numbers) == len(values) else sorted({text_of(value) for value in values}, key=_natural)
        )
        least, most = min(self._numbers, default=0.0), max(self._numbers, default=0.0)
        self._is_log = least > 0 and most / least >= 100
        self._ends = (least, most)

    def place(self, value: float | str) -> float:
        """Return the number of a value on the axis: that of its name on an axis of names."""
        if self.names is not None:
            return self.names.index(text_of(value))
        assert not isinstance(value, str)
        return value

    def share(self, value: float | str) -> float:
        """Return where a value is between the ends of the axis, from 0 to 1."""
        if self.names is not None:
            return self.place(value) / (len(self.names) - 1) if len(self.names) > 1 else 0.5
        assert not isinstance(value, str)
        at, low, high = (math.log(number) if self._is_log else number for number in (value, *self._ends))
        return (at - low) / (high - low) if high > low else 0.5

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The ticks: every name, or the ends."""
        if self.names is not None:
            return [(self.share(name), name) for name in self.names]
        return [(self.share(end), f"{end:.4g}") for end in dict.fromkeys(self._ends)] if self._numbers else []
