"""A job in the terms of other tools: parameters, and points of curves."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from service.client import Client
from service.jobs import TERMINAL

Json = dict[str, Any]
_ABOUT_THE_ROW = frozenset({"kind", "epoch", "step", "time", "diverged", "superseded", "attempt"})
_PLAIN = frozenset({"train", "eval"})


class ExportError(Exception):
    """The other tool refused a run. The message is the reason."""


class Point(NamedTuple):
    """One value of one metric at a step, with its time in seconds since 1970. NaN: not finite."""

    name: str
    step: int
    time: float
    value: float


@dataclass(frozen=True)
class Run:
    """A job as the API returns it, and its final points."""

    job: Json
    points: tuple[Point, ...]

    @classmethod
    def read(cls, client: Client, job_id: str) -> "Run":
        """Read a job and its final rows. Raises `ClientError`."""
        job = client.job(job_id)
        if job["status"] in TERMINAL:
            final = math.inf
        else:
            # The checkpoint is read before the rows, so that all rows that it covers exist by then.
            final = next((checkpoint["step"] for checkpoint in client.checkpoints(job_id)), -1)
        rows = client.metrics(job_id) if final >= 0 else []
        return cls(job, tuple(point for row in rows if row["step"] <= final for point in _points(row)))

    @property
    def id(self) -> str:
        """The id of the job."""
        found: str = self.job["id"]
        return found

    @property
    def ended(self) -> bool:
        """Whether no further point can be added."""
        return self.job["status"] in TERMINAL

    @property
    def parameters(self) -> dict[str, str | float | bool | None]:
        """Its spec with flat names, as in `optimizer.learning_rate`, and with the precision in which it trains."""
        return dict(_flat(self.job["spec"])) | ({"precision": self.job["precision"]} if self.job["precision"] else {})

    @property
    def name(self) -> str:
        """The title of the job."""
        title: str = self.job["title"]
        return title


def seconds(time: str) -> float:
    """Return a time of the API in seconds since 1970."""
    return datetime.fromisoformat(time).timestamp()


def _points(row: Json) -> Iterator[Point]:
    time = seconds(row["time"])
    for name, value in row.items():
        if name not in _ABOUT_THE_ROW and isinstance(value, int | float | None):
            named = name if row["kind"] in _PLAIN else f"{row['kind']}/{name}"
            yield Point(named, row["step"], time, math.nan if value is None else float(value))


def _flat(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | float | bool | None]]:
    for name, value in spec.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield prefix + name, " ".join(map(str, value))
        else:
            yield prefix + name, value
