"""The requests about jobs, checkpoints and the service, which `Client` and `AsyncClient` send."""

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from service.client.calls import Call, Listing, call, listed
from service.client.records import Records
from service.client.requests import given, header, path_of

if TYPE_CHECKING:
    from service.jobs import JobRequest

Json = dict[str, Any]
CheckpointRef = str | tuple[str, str]
"""The id of a checkpoint, or (job, "best") or (job, "latest")."""


def submit(request: "Mapping[str, Any] | JobRequest", idempotency_key: str | None) -> Call[Json]:
    """Queue a job."""
    body = dict(request) if isinstance(request, Mapping) else request.model_dump(mode="json")
    headers = header("Idempotency-Key", idempotency_key or str(uuid.uuid4()))
    return call("POST", "/v1/jobs", json=body, headers=headers)


def jobs(max_jobs: int | None, filters: Mapping[str, Any]) -> Listing:
    """List jobs."""
    filters = _with_labels(filters)
    if max_jobs is not None:
        filters.setdefault("limit", min(max_jobs, 100))
    return Listing("/v1/jobs", "cursor", filters, max_jobs)


def job(id_: str) -> Call[Json]:
    """Read a job."""
    return call("GET", path(id_))


def change(id_: str, **fields: Any) -> Call[Json]:
    """Change the fields of a job that are not None."""
    return call("PATCH", path(id_), json=given(fields))


def act(id_: str, verb: str) -> Call[Json]:
    """Cancel, pause, resume or retry a job."""
    return call("POST", path(id_, verb))


def extend(id_: str, epochs: int) -> Call[Json]:
    """Queue a job that continues a succeeded one."""
    return call("POST", path(id_, "extend"), json={"epochs": epochs})


def metrics(id_: str, filters: Mapping[str, Any]) -> Call[Records]:
    """Read the metrics of a job."""
    return listed(path(id_, "metrics"), params=given(filters))


def logs(id_: str, after: int | str | None, filters: Mapping[str, Any]) -> Listing:
    """List the log lines of a job."""
    return Listing(path(id_, "logs"), "after", {"after": after, **filters})


def deadline_of(timeout_s: float | None) -> float:
    """Return when a stream of events ends that lasts `timeout_s` seconds, by the monotonic clock."""
    return math.inf if timeout_s is None else time.monotonic() + timeout_s


def not_ended(id_: str, timeout_s: float | None) -> TimeoutError:
    """Return the error of a job that has not ended in time."""
    return TimeoutError(f"job {id_} has not ended within {timeout_s} s; it keeps running")


def all_events(filters: Mapping[str, Any]) -> Json:
    """Return the query of the events of all jobs, from now on."""
    return given(_with_labels(filters)) | {"replay": False}


def checkpoints(id_: str) -> Listing:
    """List the checkpoints of a job."""
    return Listing(path(id_, "checkpoints"), "cursor", {})


def checkpoint(reference: CheckpointRef) -> Call[Json]:
    """Read a checkpoint."""
    if isinstance(reference, tuple):
        return call("GET", path(reference[0], "checkpoints", reference[1]))
    return call("GET", path_of("checkpoints", reference))


def evaluate(checkpoint: str, asked: Mapping[str, Any]) -> Call[Json]:
    """Queue an evaluation of a checkpoint."""
    return call("POST", path_of("checkpoints", checkpoint, "evaluate"), json=given(asked))


def has_ended(evaluation: Json) -> bool:
    """Whether an evaluation has its result, or will have none."""
    return evaluation["status"] not in ("queued", "running")


def evaluation(id_: str) -> Call[Json]:
    """Read an evaluation."""
    return call("GET", path_of("evaluations", id_))


def evaluations(job: str) -> Call[Records]:
    """List the evaluations of the checkpoints of a job."""
    return listed(path(job, "evaluations"))


def cluster() -> Call[Json]:
    """Read the state of the cluster."""
    return call("GET", "/v1/cluster")


def storage(experiment: str | None, limit: int) -> Call[Json]:
    """Read what the checkpoints take."""
    return call("GET", "/v1/storage", params=given({"experiment": experiment, "limit": limit}))


def deliveries(max_deliveries: int | None, status: Sequence[str] | None) -> Listing:
    """List the deliveries of the webhook."""
    limit = None if max_deliveries is None else min(max_deliveries, 100)
    return Listing("/v1/webhook/deliveries", "cursor", {"status": status, "limit": limit}, max_deliveries)


def specification() -> Call[Json]:
    """Read the schema of a job."""
    return call("GET", "/v1/specification")


def path(job: str, *rest: str) -> str:
    """Return the path of a job, or of what is below it."""
    return path_of("jobs", job, *rest)


def _with_labels(filters: Mapping[str, Any]) -> Json:
    """Return filters with their labels in the form of the API, `key:value`."""
    label = filters.get("label")
    pairs = {"label": [f"{key}:{value}" for key, value in label.items()]} if isinstance(label, Mapping) else {}
    return {**filters, **pairs}
