"""Tables of results, and what is raised where a promise is broken."""

from collections.abc import Iterable, Sequence
from statistics import quantiles


class Broken(AssertionError):
    """A promise of the service is broken."""


def promise(kept: bool, what: str) -> None:
    """Raise `Broken` unless a promise is kept."""
    if not kept:
        raise Broken(what)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile."""
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]
