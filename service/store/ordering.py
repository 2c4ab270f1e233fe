"""The order of a list of jobs: by columns, by any quantity of a job, or by several of these."""

from dataclasses import dataclass
from typing import Literal, get_args

from service.errors import Unprocessable
from service.experiments.quantities import ACCEPTED, BEST, Quantity
from worker.metrics import OutcomeMetric

SortField = Literal[
    "created_at", "updated_at", "batch_size", "priority", "name", "status", "normalization", "model", "seed"
]
MOST_KEYS = 4

NAMES: tuple[str, ...] = (*get_args(SortField), *(m + end for m in get_args(OutcomeMetric) for end in ("", BEST)))
"""The sort keys of jobs that walk an index."""
PATTERN = f"^[^,]+(,[^,]+){{0,{MOST_KEYS - 1}}}$"
DESCRIPTION = (
    f"up to {MOST_KEYS} sort keys, comma-separated, each with a minus in front for descending: "
    f"{', '.join(get_args(SortField))}, or {ACCEPTED}. Jobs without a value come last."
)


@dataclass(frozen=True)
class SortKey:
    """One sort key: a column of the jobs, the last or best value of a metric, or another quantity."""

    name: str
    descending: bool

    @property
    def metric(self) -> str | None:
        """The metric that jobs are judged by, None for another sort key."""
        metric = self.name.removesuffix(BEST)
        return metric if metric in get_args(OutcomeMetric) else None

    @property
    def quantity(self) -> Quantity | None:
        """The quantity, None for one of `NAMES`. Raises `ValueError` for an unknown name."""
        return None if self.name in NAMES else Quantity.parse(self.name)

    @property
    def value(self) -> Literal["best", "last"]:
        """The column of the value of the metric."""
        return "best" if self.name.endswith(BEST) else "last"


@dataclass(frozen=True)
class Order:
    """The sort keys in their order. The id breaks ties, in the direction of the last key."""

    text: str
    keys: tuple[SortKey, ...]

    @classmethod
    def parse(cls, text: str) -> "Order":
        """Parse `-test_error,created_at`. Raises `Unprocessable`, which lists the sort keys, for an unknown one."""
        keys = tuple(SortKey(one.removeprefix("-"), one.startswith("-")) for one in text.split(","))
        try:
            known = len([key.quantity for key in keys]) <= MOST_KEYS
        except ValueError:
            known = False
        if not known:
            raise Unprocessable(f"sort is {text!r}: give {DESCRIPTION}")
        # A repeated key has no effect.
        first = {key.name: key for key in reversed(keys)}
        return cls(text, tuple(key for key in keys if first[key.name] is key))
