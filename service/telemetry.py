"""What Prometheus reads at /metrics. What the database knows is read at the scrape, so any replica may be asked."""

from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy.ext.asyncio import AsyncSession

from service.store import jobs, leases


class Telemetry:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Gauge("normlab_jobs", "Jobs in each state", ["status"], registry=self.registry)
        self.oldest = Gauge(
            "normlab_queue_oldest_seconds", "How long the longest-waiting job waits", registry=self.registry
        )
        self.heartbeat_age = Gauge(
            "normlab_dispatcher_heartbeat_age_seconds",
            "Since the dispatcher renewed its lease; +Inf where there never was one",
            registry=self.registry,
        )
        self.database_up = Gauge("normlab_database_up", "1 where the database answers", registry=self.registry)
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
        now = await leases.now(session)
        for status, count in (await jobs.count_by_status(session)).items():
            self.jobs.labels(str(status)).set(count)
        self.oldest.set(_age_s(now, await jobs.oldest_queued_at(session), never=0.0))
        lease = await leases.get(session, "dispatcher")
        self.heartbeat_age.set(_age_s(now, lease.renewed_at if lease else None, never=float("inf")))

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)


def _age_s(now: datetime, since: datetime | None, never: float) -> float:
    return never if since is None else max(0.0, (now - since).total_seconds())
