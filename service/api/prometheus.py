"""What Prometheus reads at /metrics.

The api holds no state and has replicas, so whatever is about the whole service is read from the database at the
scrape, counters too: any replica tells the same. Only requests and event streams are counted by each process.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import OUTCOMES, Status
from service.store import checkpoints, counters, jobs, leases
from service.store.tables import Job

WORKER_STATES = ("starting", "idle", "busy")


class Telemetry:
    """The metrics of one process, in a registry of their own."""

    def __init__(self, version: str, artifacts: Path | None) -> None:
        self.registry = CollectorRegistry()
        self._whole = _WholeService()
        build = Gauge("normlab_build_info", "1; which version answers", ["version"], registry=self.registry)
        build.labels(version).set(1)
        self.database_up = Gauge("normlab_database_up", "1 where the database answers", registry=self.registry)
        self.registry.register(self._whole)
        if artifacts is not None:
            free = Gauge(
                "normlab_artifacts_free_bytes",
                "Free on the disk of the checkpoints, where they are in a folder",
                registry=self.registry,
            )
            free.set_function(lambda: _free_bytes(artifacts))
        self.sse_clients = Gauge("normlab_sse_clients", "Open event streams of this process", registry=self.registry)
        self.requests = Counter(
            "normlab_http_requests_total",
            "Answered requests of this process",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.durations = Histogram(
            "normlab_http_request_duration_seconds",
            "From the request to the end of its answer",
            ["method", "route"],
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count a request under the template of its route."""
        self.requests.labels(method, route, str(status)).inc()
        self.durations.labels(method, route).observe(duration_s)

    async def refresh(self, session: AsyncSession) -> None:
        """Bring up to date what the database knows."""
        self._whole.state = await Stored.read(session)
        self.database_up.set(1)

    def database_is_down(self) -> None:
        """Say so, and nothing of what the database last knew."""
        self._whole.state = None
        self.database_up.set(0)

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)


@dataclass(frozen=True)
class Stored:
    """What the database knew of the whole service at one moment.

    `report` is what the dispatcher last said of the cluster, None where it has been silent for longer than its lease:
    nobody knows then what is free.
    """

    jobs: Mapping[Status, int]
    queue_oldest_s: float
    heartbeat_age_s: float
    report: Mapping[str, Any] | None
    images_per_s: float
    attempts: Mapping[str, float]
    latency: tuple[list[tuple[str, float]], float]
    checkpoint_bytes: int

    @classmethod
    async def read(cls, session: AsyncSession) -> "Stored":
        """Eight statements, each answered from an index or a handful of rows."""
        now = await leases.now(session)
        lease = await leases.get(session, "dispatcher")
        running = await session.scalars(select(Job.progress).where(Job.status == Status.RUNNING))
        return cls(
            jobs=await jobs.count_by_status(session),
            queue_oldest_s=_age_s(now, await jobs.oldest_queued_at(session), never=0.0),
            heartbeat_age_s=_age_s(now, lease.renewed_at if lease else None, never=float("inf")),
            report=lease.report if lease and lease.expires_at > now else None,
            images_per_s=sum((progress or {}).get("images_per_s") or 0.0 for progress in running),
            attempts=await counters.read(session, counters.ATTEMPTS_ENDED),
            latency=await counters.latency(session),
            checkpoint_bytes=await checkpoints.stored_bytes(session),
        )

    def metrics(self) -> Iterator[Metric]:
        """As Prometheus has them."""
        statuses = {str(status): count for status, count in self.jobs.items()}
        yield _gauge("normlab_jobs", "Jobs in each state", statuses, "status")
        yield _gauge("normlab_queue_oldest_seconds", "How long the longest-waiting job waits", self.queue_oldest_s)
        yield _gauge(
            "normlab_dispatcher_heartbeat_age_seconds",
            "Since the dispatcher renewed its lease; +Inf where there never was one",
            self.heartbeat_age_s,
        )
        if self.report is not None:
            yield from _cluster(self.report)
        yield _gauge("normlab_training_images_per_second", "Images all running jobs train on", self.images_per_s)
        ended = CounterMetricFamily("normlab_attempts_ended", "Attempts that ended, by how", labels=["outcome"])
        for outcome in OUTCOMES:
            ended.add_metric([outcome], self.attempts.get(outcome, 0.0))
        yield ended
        buckets, total_s = self.latency
        yield HistogramMetricFamily(
            "normlab_dispatch_latency_seconds",
            "From the queue to the first step, of each attempt",
            buckets=buckets,
            sum_value=total_s,
        )
        yield _gauge("normlab_checkpoint_stored_bytes", "Size of all checkpoints together", self.checkpoint_bytes)


class _WholeService(Collector):
    def __init__(self) -> None:
        self.state: Stored | None = None

    def collect(self) -> Iterator[Metric]:
        if self.state is not None:
            yield from self.state.metrics()


def _cluster(report: Mapping[str, Any]) -> Iterator[Metric]:
    slots, workers = report.get("slots", {}), report.get("workers", [])
    connected = (report.get("ray") or {}).get("status") == "connected"
    by_state = {state: sum(worker["state"] == state for worker in workers) for state in WORKER_STATES}
    busy_and_free = {state: slots.get(state, 0) for state in ("busy", "free")}
    yield _gauge("normlab_ray_up", "1 where the dispatcher reaches Ray", float(connected))
    yield _gauge("normlab_nodes", "Machines of the Ray cluster", len(report.get("nodes", [])))
    yield _gauge("normlab_slots", "Places where one worker can train", busy_and_free, "state")
    yield _gauge("normlab_workers", "Training workers in each state", by_state, "state")


def _gauge(name: str, help_: str, value: float | Mapping[str, float], label: str = "") -> GaugeMetricFamily:
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(name, help_, value=value)
    gauge = GaugeMetricFamily(name, help_, labels=[label])
    for key, amount in value.items():
        gauge.add_metric([key], amount)
    return gauge


def _free_bytes(folder: Path) -> float:
    existing = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    try:
        return float(shutil.disk_usage(existing).free)
    except OSError:
        return float("nan")


def _age_s(now: datetime, since: datetime | None, never: float) -> float:
    return never if since is None else max(0.0, (now - since).total_seconds())
