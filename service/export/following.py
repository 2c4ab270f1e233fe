"""From the service to a sink: once, or for as long as the jobs run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from service.client import ApiError, Client
from service.experiments.status import ENDED
from service.export.runs import Run

LOOK_S = 1.0
"""How often an experiment is looked at whose jobs have all ended, while it decides whether more are wanted."""


class Sink(Protocol):
    """Where runs go."""

    def update(self, run: Run) -> None:
        """Bring what is there of a run up to what it is; of one that is as it should be, change nothing.

        Raises `ExportError`.
        """


@dataclass(frozen=True)
class Selection:
    """Which jobs: these, or those that filters of `GET /v1/jobs` choose; all of them where neither is given."""

    jobs: Sequence[str] = ()
    filters: Mapping[str, Any] = field(default_factory=dict)

    def ids(self, client: Client) -> Iterator[str]:
        """Their ids, the oldest first."""
        if self.jobs:
            yield from self.jobs
        else:
            yield from (job["id"] for job in client.jobs(sort="created_at", **self.filters))

    def is_complete(self, client: Client) -> bool:
        """Whether no further job will belong to it: an experiment may still want more seeds."""
        experiment = self.filters.get("experiment")
        return experiment is None or client.experiment(experiment)["status"] in ENDED


def export(
    client: Client, selection: Selection, sink: Sink, *, follow: bool, on_update: Callable[[Run], object]
) -> None:
    """Give the jobs of a selection to a sink; with `follow`, what happens to them until all have ended.

    Nothing is missed: events only say which job to look at, and a look takes all that is final. So where the stream
    of events had to begin anew, all jobs are looked at. Raises `ClientError` and `ExportError`.
    """
    exporter = _Exporter(client, selection, sink, on_update)
    if not follow:
        exporter.look_at_all()
        return
    for event in client.follow(**selection.filters):
        if event.type == "open":
            exporter.look_at_all()
        elif event.type in ("status", "checkpoint") and event.data["job"] in exporter:
            exporter.look_at(event.data["job"])
        while not exporter.running:
            if selection.is_complete(client):
                return
            time.sleep(LOOK_S)
            exporter.look_at_all()


class _Exporter:
    def __init__(self, client: Client, selection: Selection, sink: Sink, on_update: Callable[[Run], object]) -> None:
        self._client, self._selection, self._sink, self._on_update = client, selection, sink, on_update
        self._ended: set[str] = set()
        self.running: set[str] = set()

    def __contains__(self, job: str) -> bool:
        return (not self._selection.jobs or job in self._selection.jobs) and job not in self._ended

    def look_at_all(self) -> None:
        """Look at every job that may have changed."""
        for job in list(self._selection.ids(self._client)):
            if job not in self._ended:
                self.look_at(job)

    def look_at(self, job: str) -> None:
        """Read a job, and hand it on."""
        try:
            run = Run.read(self._client, job)
        except ApiError as error:
            if error.status != 404 or (job in self._selection.jobs and job not in self.running):
                raise
            # It was deleted before we looked: what was exported of it stays.
            self._end(job)
            return
        self._sink.update(run)
        self._on_update(run)
        self.running.add(job)
        if run.ended:
            self._end(job)

    def _end(self, job: str) -> None:
        self.running.discard(job)
        self._ended.add(job)
