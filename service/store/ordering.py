"""The order of a list of jobs: by fields, by the last or the best value of a metric, or by several of these."""

from dataclasses import dataclass
from typing import Literal, get_args

from service.errors import Unprocessable
from worker.metrics import OutcomeMetric

SortField = Literal[
    "created_at", "updated_at", "batch_size", "priority", "name", "status", "normalization", "model", "seed"
]
BEST = ".best"
MOST_KEYS = 4

NAMES: tuple[str, ...] = (*get_args(SortField), *(m + end for m in get_args(OutcomeMetric) for end in ("", BEST)))
"""The sort keys of jobs."""
PATTERN = "^-?({one})(,-?({one})){{0,{more}}}$".format(
    one="|".join(name.replace(".", r"\.") for name in NAMES), more=MOST_KEYS - 1
)
DESCRIPTION = (
    f"up to {MOST_KEYS} of {', '.join(get_args(SortField))}, {', '.join(get_args(OutcomeMetric))}, comma-separated, "
    f"each with a minus in front for descending. A metric is its last value; with the suffix {BEST}, its best. Jobs "
    "without the metric come last."
)


@dataclass(frozen=True)
class SortKey:
    """One sort key: a column of the jobs, or the last or best value of a metric."""

    name: str
    descending: bool

    @property
    def metric(self) -> str | None:
        """The metric, None for a column."""
        metric = self.name.removesuffix(BEST)
        return metric if metric in get_args(OutcomeMetric) else None

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
        if len(keys) > MOST_KEYS or any(key.name not in NAMES for key in keys):
            raise Unprocessable(f"sort is {text!r}: give {DESCRIPTION}")
        # A repeated key has no effect.
        first = {key.name: key for key in reversed(keys)}
        return cls(text, tuple(key for key in keys if first[key.name] is key))
