"""How values of a metric are written as text. Errors are shown in per cent, and their differences in points."""

from collections.abc import Sequence

from worker.metrics import METRICS

NONE = "–"
"""What is shown where there is no value."""


class Number:
    """The number format of a metric. Errors are shown in per cent."""

    def __init__(self, metric: str) -> None:
        described = METRICS[metric]
        self.is_error = described.format == "percent"
        self.scale = 100.0 if self.is_error else 1.0
        self.title = described.title.capitalize()
        self.axis = f"{self.title} (%)" if self.is_error else self.title
        self._unit = " %" if self.is_error else ""

    def text(self, value: float | None, sign: str = "") -> str:
        """Format a value with its unit."""
        return NONE if value is None else f"{self.plain(value, sign)}{self._unit}"

    def plain(self, value: float, sign: str = "") -> str:
        """Format a value without its unit."""
        scaled = value * self.scale
        return f"{scaled:{sign}.2f}" if self.is_error else f"{scaled:{sign}.4g}"

    def points(self, value: float) -> str:
        """Format a difference; differences of errors are in percentage points."""
        return f"{self.plain(value)} percentage points" if self.is_error else self.plain(value)

    def range(self, interval: Sequence[float] | None, sign: str = "") -> str:
        """Format an interval."""
        return NONE if interval is None else f"{self.plain(interval[0], sign)} to {self.plain(interval[1], sign)}"

    def half(self, interval: Sequence[float] | None) -> str | None:
        """Format half the width of an interval, as it follows ±; None if there is no interval."""
        return None if interval is None else self.plain((interval[1] - interval[0]) / 2)


def percent(share: float) -> str:
    """Format a share, as `95 %`."""
    return f"{100 * share:g} %"


def p_value(p: float | None) -> str:
    """Format a p value, as `0.0123` or `< 0.0001`."""
    return NONE if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def p_is(p: float) -> str:
    """Format a p value with its relation, as `= 0.0123` or `< 0.0001`."""
    return p_value(p) if p < 0.0001 else f"= {p_value(p)}"


def words(field: str) -> str:
    """Return the name of a field as it is read in a sentence, such as `batch size`."""
    return field.replace("_", " ")
