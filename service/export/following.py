"""Export of selected jobs to a sink, once or until they have ended."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from service.client import ApiError, Client
from service.experiments.status import ENDED
from service.export.runs import Run

POLL_S = 1.0
"""Interval at which an experiment is polled whose jobs have all ended, until it decides whether to add seeds."""


class Sink(Protocol):
    """A destination of runs."""

    def update(self, run: Run) -> None:
        """Bring the exported run up to date. Idempotent. Raises `ExportError`."""


@dataclass(frozen=True)
class Selection:
    """The jobs to export: those with the given ids, or those that filters of `GET /v1/jobs` select. Default: all."""

    jobs: Sequence[str] = ()
    filters: Mapping[str, Any] = field(default_factory=dict)

    def ids(self, client: Client) -> Iterator[str]:
        """Yield their ids, oldest first."""
        if self.jobs:
            yield from self.jobs
        else:
            yield from (job["id"] for job in client.jobs(sort="created_at", **self.filters))

    def is_complete(self, client: Client) -> bool:
        """Return whether no further job can be selected. A sequential experiment may still add seeds."""
        experiment = self.filters.get("experiment")
        return experiment is None or client.experiments.get(experiment)["status"] in ENDED


def export(
    client: Client, selection: Selection, sink: Sink, *, follow: bool, on_update: Callable[[Run], object]
) -> None:
    """Export the selected jobs to a sink; with `follow`, keep exporting until all of them have ended.

    An event only identifies the job to read, and every read exports all final rows. If the event stream restarts
    without a position, all jobs are read, so that no row is missed; if the database of the service was replaced, also
    those that had ended.

    Raises:
        ClientError: The service refused a request, or cannot be reached.
        ExportError: The sink did not accept a run.
    """
    exporter = _Exporter(client, selection, sink, on_update)
    if not follow:
        exporter.export_all()
        return
    for event in client.follow(**selection.filters):
        if event.type == "reset":
            exporter.forget()
        if event.type in ("open", "reset"):
            exporter.export_all()
        elif event.type in ("status", "checkpoint") and event.data["job"] in exporter:
            exporter.export_job(event.data["job"])
        while not exporter.running:
            if selection.is_complete(client):
                return
            time.sleep(POLL_S)
            exporter.export_all()


class _Exporter:
    def __init__(self, client: Client, selection: Selection, sink: Sink, on_update: Callable[[Run], object]) -> None:
        self._client, self._selection, self._sink, self._on_update = client, selection, sink, on_update
        self._exported: set[str] = set()
        self._ended: set[str] = set()
        self.running: set[str] = set()

    def __contains__(self, job: str) -> bool:
        return (not self._selection.jobs or job in self._selection.jobs) and job not in self._ended

    def forget(self) -> None:
        """Forget which jobs run and which have ended."""
        self.running.clear()
        self._ended.clear()

    def export_all(self) -> None:
        """Export every job that has not ended at its last export."""
        for job in list(self._selection.ids(self._client)):
            if job not in self._ended:
                self.export_job(job)

    def export_job(self, job: str) -> None:
        """Export one job."""
        try:
            run = Run.read(self._client, job)
        except ApiError as error:
            if error.status != 404 or (job in self._selection.jobs and job not in self._exported):
                raise
            # It was deleted before this read; its exported rows stay.
            self._end(job)
            return
        self._sink.update(run)
        self._on_update(run)
        self._exported.add(job)
        self.running.add(job)
        if run.ended:
            self._end(job)

    def _end(self, job: str) -> None:
        self.running.discard(job)
        self._ended.add(job)
