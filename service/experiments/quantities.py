"""Quantities of jobs: what jobs are filtered and sorted by, and what charts have as axes.

`batch_size` and `optimizer.learning_rate` are fields of a specification, `labels.study` is a label, `test_error` the
last value of a metric, `test_error.best` its best, and `duration_s` the time that a job has run.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from service.experiments import axes
from service.experiments.numbers import Number, words
from worker.metrics import METRICS

LABELS = "labels."
BEST = ".best"
DURATION = "duration_s"

Kind = Literal["field", "label", "metric", "duration"]
Operator = Literal[":", "<", "<=", ">", ">="]

ACCEPTED = (
    "a field of the specification, such as batch_size or optimizer.learning_rate, a label as labels.KEY, a metric such "
    f"as test_error (its last value) or test_error{BEST}, or {DURATION}"
)
_CONDITION = re.compile(r"(labels\.[^:]+(?=:)|[^:<>]+)(:|<=|>=|<|>)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Measured:
    """A job, as its quantities are read from it. `summary` has the last and the best value of each metric."""

    id: str
    title: str
    spec: Mapping[str, Any]
    summary: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    duration_s: float | None = None


@dataclass(frozen=True)
class Quantity:
    """A quantity. `key` is the path of the field, the key of the label or the name of the metric."""

    name: str
    kind: Kind
    key: str

    @classmethod
    def parse(cls, name: str) -> "Quantity":
        """Parse the name of a quantity. Raises `ValueError`, which lists what is accepted, for an unknown one."""
        if name.startswith(LABELS) and name != LABELS:
            return cls(name, "label", name.removeprefix(LABELS))
        if name == DURATION:
            return cls(name, "duration", name)
        metric = name.removesuffix(BEST)
        if metric in METRICS and not METRICS[metric].per_layer:
            return cls(name, "metric", metric)
        if not axes.is_field(name):
            raise ValueError(f"{name!r} is no quantity of a job: give {ACCEPTED}. The fields are {_fields()}.")
        return cls(name, "field", name)

    @property
    def part(self) -> Literal["best", "last"]:
        """Which value of a metric it is."""
        return "best" if self.name.endswith(BEST) else "last"

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return axes.is_number(self.key) if self.kind == "field" else self.kind != "label"

    @property
    def title(self) -> str:
        """Its name at an axis, with the unit."""
        match self.kind:
            case "metric":
                axis = Number(self.key).axis
                return f"{self.part.capitalize()} {axis[0].lower()}{axis[1:]}"
            case "label":
                return f"Label {self.key}"
            case "duration":
                return "Duration (s)"
        return words(self.name.replace(".", " ")).capitalize()

    def of(self, job: Measured) -> float | str | None:
        """Return the value of a job as it is drawn: errors in per cent, values that are no numbers by their labels."""
        match self.kind:
            case "label":
                return job.labels.get(self.key)
            case "duration":
                return job.duration_s
            case "metric":
                value = (job.summary.get(self.key) or {}).get(self.part)
                return None if value is None else cast(float, value) * Number(self.key).scale
        value = axes.read(job.spec, self.key)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        return axes.label(self.key, value)


@dataclass(frozen=True)
class Condition:
    """A condition on a quantity: `:` for a label of its values, or a comparison with a number."""

    quantity: Quantity
    operator: Operator
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Parse `batch_size:8`, `labels.study:paper` or `test_error.best<0.3`. Raises `ValueError`."""
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise ValueError(f"where is {text!r}: give it as batch_size:8 or test_error.best<0.3, with {ACCEPTED}.")
        try:
            quantity = Quantity.parse(match[1])
        except ValueError as error:
            raise ValueError(f"where is {text!r}: {error}") from None
        operator = cast(Operator, match[2])
        if operator == ":" and quantity.kind in ("metric", "duration"):
            raise ValueError(f"where is {text!r}: compare {quantity.name} by <, <=, > or >=.")
        if operator != ":":
            if not quantity.is_number:
                raise ValueError(f"where is {text!r}: {quantity.name} is no number, give its value after a colon.")
            if _number(match[3]) is None:
                raise ValueError(f"where is {text!r}: give a number after {operator}.")
        return cls(quantity, operator, match[3])

    @property
    def number(self) -> float | None:
        """The value as a number, None for another text."""
        return _number(self.value)


def _number(text: str) -> float | None:
    """Read a number; an integer that a database has no room for is a float."""
    try:
        number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,19}", text) else float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return number if abs(number) < 2**63 else float(number)


def _fields() -> str:
    return ", ".join(axes.fields())
