"""Runs: the parts of a job from which results and costs are computed."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from service.experiments import axes
from service.jobs import Status


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

    @cached_property
    def configuration(self) -> str:
        """Its spec without the seed, as one text, under which work on equal specs is cached."""
        return axes.canonical({name: value for name, value in self.spec.items() if name != "seed"})


@dataclass(frozen=True)
class Speed:
    """The training speed of a job per worker."""

    model: str
    batch_size: int
    device: str
    images_per_s: float
    eval_images_per_s: float | None = None
    """Of its evaluations, per worker; None before the first."""
