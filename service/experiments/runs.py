"""A run: a job as results and costs are made of it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from service.experiments import axes
from service.jobs import Status


@dataclass(frozen=True)
class Run:
    """A job, what it was asked for, what became of it, and what its attempts used."""

    id: str
    status: Status
    seed: int
    spec: dict[str, Any]
    summary: dict[str, Any]
    progress: dict[str, Any] | None = None
    device: str | None = None
    """What its last attempt ran on."""
    precision: str | None = None
    device_s: float = 0.0
    """Seconds that workers held it, those of each worker, over all attempts."""

    @cached_property
    def configuration(self) -> str:
        """Its spec but for the seed, as one text: most jobs share theirs with others, and need be read once only."""
        return axes.canonical({name: value for name, value in self.spec.items() if name != "seed"})


@dataclass(frozen=True)
class Speed:
    """How fast a job trained, by worker."""

    model: str
    batch_size: int
    device: str
    images_per_s: float
