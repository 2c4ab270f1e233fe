"""The Prometheus metrics of /metrics.

Metrics of the whole service, including counters, are read from the database at each scrape, so that all replicas report
the same values. Each process counts only its own requests and event streams.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.artifacts import LocalArtifacts
from service.cluster_report import ClusterReport, WorkerActivity
from service.jobs import OUTCOMES, Status
from service.store import Session, checkpoints, counters, jobs, leases

WORKER_STATES: tuple[WorkerActivity, ...] = get_args(WorkerActivity)


class Telemetry:
    """The metrics of one process, in a separate registry."""

    def __init__(self, version: str, artifacts: LocalArtifacts | None) -> None:
        self.registry = CollectorRegistry()
        self._whole = _WholeService()
        build = Gauge(
            "normlab_build_info", "Version of the service; the value is always 1", ["version"], registry=self.registry
        )
        build.labels(version).set(1)
        self.database_up = Gauge(
            "normlab_database_up", "Whether the database answers (1) or not (0)", registry=self.registry
        )
        self.registry.register(self._whole)
        if artifacts is not None:
            free = Gauge(
                "normlab_artifacts_free_bytes",
                "Free space on the file system of the checkpoints, in bytes; only for a local directory",
                registry=self.registry,
            )
            free.set_function(lambda: _number(artifacts.free_bytes()))
        self.sse_clients = Gauge(
            "normlab_sse_clients", "Number of open event streams of this process", registry=self.registry
        )
        self.requests = Counter(
            "normlab_http_requests_total",
            "Total number of HTTP requests that this process has answered",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.durations = Histogram(
            "normlab_http_request_duration_seconds",
            "Time from receiving an HTTP request to the end of its response, in seconds",
            ["method", "route"],
            registry=self.registry,
        )

    def observe(self, method: str, route: str, status: int, duration_s: float) -> None:
        """Count a request under the path template of its route."""
        self.requests.labels(method, route, str(status)).inc()
        self.durations.labels(method, route).observe(duration_s)

    async def refresh(self, session: Session, watch: leases.Watch) -> None:
        """Read the metrics of the whole service from the database."""
        self._whole.state = await Stored.read(session, watch)
        self.database_up.set(1)

    def database_is_down(self) -> None:
        """Report that the database is down, and omit the metrics that come from it."""
        self._whole.state = None
        self.database_up.set(0)

    def render(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        return generate_latest(self.registry)


@dataclass(frozen=True)
class Stored:
    """A snapshot of the whole service from the database.

    `report` is the dispatcher's report on the cluster, or None once its lease has expired and the report is outdated.
    """

    jobs: Mapping[Status, int]
    queue_oldest_s: float
    heartbeat_age_s: float
    report: ClusterReport | None
    images_per_s: float
    attempts: Mapping[str, float]
    latency: tuple[list[tuple[str, float]], float]
    checkpoint_bytes: int

    @classmethod
    async def read(cls, session: Session, watch: leases.Watch) -> "Stored":
        """Read the snapshot: eight statements, each of which reads an index or a few rows."""
        now = await leases.now(session)
        beat = await leases.heartbeat(session, "dispatcher", watch)
        return cls(
            jobs=await jobs.count_by_status(session),
            queue_oldest_s=_age_s(now, await jobs.oldest_queued_at(session), never=0.0),
            heartbeat_age_s=beat.age_s if beat else float("inf"),
            report=ClusterReport.read(beat.lease.report) if beat and beat.alive else None,
            images_per_s=await jobs.running_images_per_s(session),
            attempts=await counters.read(session, counters.ATTEMPTS_ENDED),
            latency=await counters.latency(session),
            checkpoint_bytes=await checkpoints.stored_bytes(session),
        )

    def metrics(self) -> Iterator[Metric]:
        """Yield the metrics as metric families of prometheus_client."""
        statuses = {str(status): count for status, count in self.jobs.items()}
        yield _gauge("normlab_jobs", "Number of jobs, by status", statuses, "status")
        yield _gauge(
            "normlab_queue_oldest_seconds",
            "Time since the oldest queued job was queued, in seconds",
            self.queue_oldest_s,
        )
        yield _gauge(
            "normlab_dispatcher_heartbeat_age_seconds",
            "Time since the dispatcher last renewed its lease, in seconds; +Inf before the first dispatcher",
            self.heartbeat_age_s,
        )
        if self.report is not None:
            yield from _cluster(self.report)
        yield _gauge(
            "normlab_training_images_per_second",
            "Total training throughput of all running jobs, in images per second",
            self.images_per_s,
        )
        ended = CounterMetricFamily(
            "normlab_attempts_ended", "Total number of attempts that ended, by outcome", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            ended.add_metric([outcome], self.attempts.get(outcome, 0.0))
        yield ended
        buckets, total_s = self.latency
        yield HistogramMetricFamily(
            "normlab_dispatch_latency_seconds",
            "Time from queueing a job to the first step of its attempt, in seconds",
            buckets=buckets,
            sum_value=total_s,
        )
        yield _gauge(
            "normlab_checkpoint_stored_bytes", "Total size of all stored checkpoints, in bytes", self.checkpoint_bytes
        )


class _WholeService(Collector):
    def __init__(self) -> None:
        self.state: Stored | None = None

    def collect(self) -> Iterator[Metric]:
        if self.state is not None:
            yield from self.state.metrics()


def _cluster(report: ClusterReport) -> Iterator[Metric]:
    by_state: dict[str, int] = {
        state: sum(worker.state == state for worker in report.workers) for state in WORKER_STATES
    }
    busy_and_free = {"busy": report.slots.busy, "free": report.slots.free}
    yield _gauge(
        "normlab_ray_up",
        "Whether the dispatcher is connected to Ray (1) or not (0)",
        float(report.ray.status == "connected"),
    )
    yield _gauge("normlab_nodes", "Number of nodes in the Ray cluster", len(report.nodes))
    yield _gauge(
        "normlab_slots",
        "Number of training workers that the Ray cluster has room for, by state",
        busy_and_free,
        "state",
    )
    yield _gauge("normlab_workers", "Number of training workers, by state", by_state, "state")


def _gauge(name: str, help_: str, value: float | Mapping[str, float], label: str = "") -> GaugeMetricFamily:
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(name, help_, value=value)
    gauge = GaugeMetricFamily(name, help_, labels=[label])
    for key, amount in value.items():
        gauge.add_metric([key], amount)
    return gauge


def _number(value: int | None) -> float:
    return float("nan") if value is None else float(value)


def _age_s(now: datetime, since: datetime | None, never: float) -> float:
    return never if since is None else max(0.0, (now - since).total_seconds())
