"""Runs: the parts of a job from which results and costs are computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from service.experiments import axes
from service.experiments.quantities import LABELS
from service.jobs import Status
from worker.metrics import HOLDOUT_ERROR, TEST_ERROR


@dataclass(frozen=True)
class Run:
    """A job: its spec, its outcome, and the devices and time that its attempts used."""

    id: str
    status: Status
    seed: int
    spec: dict[str, Any]
    summary: dict[str, Any]
    progress: dict[str, Any] | None = None
    device: str | None = None
    """The device of its last attempt."""
    precision: str | None = None
    device_s: float = 0.0
    """Worker seconds over all attempts."""
    versions: dict[str, str] = field(default_factory=dict)
    """The versions of the software of its last attempt, by name."""
    cell: str | None = None
    """The digest of its cell in its experiment."""
    labels: dict[str, str] = field(default_factory=dict)
    """Its labels, where a table has one as an axis."""

    def value(self, name: str) -> Any:
        """Return the value of a field or a label, None if it has none."""
        return self.labels.get(name.removeprefix(LABELS)) if name.startswith(LABELS) else axes.read(self.spec, name)

    @property
    def holdout(self) -> int:
        """The number of its held-out images."""
        return axes.read(self.spec, "dataset.holdout") or 0

    @cached_property
    def configuration(self) -> str:
        """Its spec without the seed, as one text, under which work on equal specs is cached."""
        return axes.canonical({name: value for name, value in self.spec.items() if name != "seed"})


def is_axis(name: str) -> bool:
    """Whether a table can have the field or the label `name` as its rows or columns."""
    return (name.startswith(LABELS) and name != LABELS) or axes.is_field(name)


def is_tested(spec: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Whether a job is evaluated on test images.

    A job with a holdout that ran before both were evaluated has metrics of its holdout only.
    """
    if axes.read(spec, "dataset.test_limit") == 0:
        return False
    return TEST_ERROR.name in summary or HOLDOUT_ERROR.name not in summary


@dataclass(frozen=True)
class Speed:
    """The training speed of a job per worker."""

    model: str
    batch_size: int
    device: str
    images_per_s: float
    eval_images_per_s: float | None = None
    """Of its evaluations, per worker; None before the first."""
