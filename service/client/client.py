"""The Python client of the HTTP API, on which the command line is built.

```python
with Client() as client:
    job = client.submit({"normalization": {"type": "group", "num_groups": 8}, "batch_size": 2})
    for event in client.events(job["id"]):
        print(event.type, event.data)
    client.download((job["id"], "best"), "model.safetensors", "model.safetensors")
```

Answers of the API are returned as plain dictionaries. A request that cannot be sent raises `InvalidRequest`, a
`ValueError`; every other error is a `ClientError` with a readable message.
"""

import hashlib
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from service.client.connection import Connection, CorruptDownload, Event, OnProgress
from service.client.experiments import Experiments
from service.client.files import part_of, writing
from service.client.requests import given, header, path_of

if TYPE_CHECKING:
    from service.jobs import JobRequest

Json = dict[str, Any]
CheckpointRef = str | tuple[str, str]
"""The id of a checkpoint, or (job, "best") or (job, "latest")."""


class Client:
    """A client of one service: its jobs, their events and checkpoints, and `experiments`.

    A request is repeated for `retry_s` seconds while the connection fails or the service is unavailable. An event
    stream or a download resumes where it broke, until nothing has arrived for `patience_s` seconds.

    Methods raise `ApiError` if the service refuses a request, and `ConnectionFailed` if it cannot be reached.

    Args:
        base_url: Address of the service; by default NORMLAB_URL, else http://127.0.0.1:8000.
        token: Bearer token; by default NORMLAB_TOKEN, if set.
        timeout_s: Seconds to wait for each answer.
        backoff_s: Seconds before the first repeat of a request; each further pause is twice as long, up to 2 s.
        retry_s: Seconds for which a request is repeated.
        patience_s: Seconds for which an event stream or a download tries to resume.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 30,
        backoff_s: float = 0.1,
        retry_s: float = 1,
        patience_s: float = 60,
    ) -> None:
        self._connection = Connection(
            base_url, token, timeout_s=timeout_s, backoff_s=backoff_s, retry_s=retry_s, patience_s=patience_s
        )
        self.base_url = self._connection.base_url
        self.experiments = Experiments(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    # Jobs

    def submit(self, request: "Mapping[str, Any] | JobRequest", idempotency_key: str | None = None) -> Json:
        """Queue a job and return it. A second submission with the same key returns the first job."""
        body = dict(request) if isinstance(request, Mapping) else request.model_dump(mode="json")
        headers = header("Idempotency-Key", idempotency_key or str(uuid.uuid4()))
        return self._connection.json("POST", "/v1/jobs", json=body, headers=headers)

    def jobs(self, *, max_jobs: int | None = None, **filters: Any) -> Iterator[Json]:
        """Yield the jobs, newest first unless `sort` is given, page after page.

        Args:
            max_jobs: Stop after this number of jobs.
            filters: The query parameters of `GET /v1/jobs`; `label` may be a dictionary.
        """
        filters = _with_labels(filters)
        if max_jobs is not None:
            filters.setdefault("limit", min(max_jobs, 100))
        return self._connection.pages("/v1/jobs", "cursor", filters, max_jobs)

    def job(self, job: str) -> Json:
        """Return one job: its spec as it runs, status, progress, summary and attempts."""
        return self._connection.json("GET", _job(job))

    def change(
        self,
        job: str,
        *,
        name: str | None = None,
        notes: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        priority: int | None = None,
    ) -> Json:
        """Change the name, the notes, the labels or the priority of a job.

        A label of None is removed; labels that are not given stay as they are.
        """
        change = given({"name": name, "notes": notes, "labels": labels, "priority": priority})
        return self._connection.json("PATCH", path_of("jobs", job), json=change)

    def cancel(self, job: str) -> Json:
        """Stop a job for good. Does nothing to a job that is cancelled already."""
        return self._connection.json("POST", _job(job, "cancel"))

    def pause(self, job: str) -> Json:
        """Stop a job at a checkpoint, until it is resumed."""
        return self._connection.json("POST", _job(job, "pause"))

    def resume(self, job: str) -> Json:
        """Queue a paused job again. It continues from its checkpoint."""
        return self._connection.json("POST", _job(job, "resume"))

    def retry(self, job: str) -> Json:
        """Queue a new job with the spec of one that failed or was cancelled, and return the new job."""
        return self._connection.json("POST", _job(job, "retry"))

    def extend(self, job: str, epochs: int) -> Json:
        """Queue a new job that continues a succeeded one until `epochs` epochs are done, and return the new job."""
        return self._connection.json("POST", _job(job, "extend"), json={"epochs": epochs})

    def delete(self, job: str) -> None:
        """Delete a job that has ended, with its metrics and checkpoints."""
        self._connection.request("DELETE", _job(job))

    def wait(self, job: str, timeout_s: float | None = None) -> Json:
        """Wait until a job has ended, and return it.

        Raises:
            TimeoutError: The job has not ended within `timeout_s` seconds. It keeps running.
        """
        for _ in self.events(job, timeout_s=timeout_s):
            pass
        return self.job(job)

    def metrics(self, job: str, **filters: Any) -> list[Json]:
        """Return the metrics of a job in the order of their steps.

        Args:
            job: Id of the job.
            filters: The query parameters of the API: kind, after_step, max_points, superseded.
        """
        rows: list[Json] = self._connection.json("GET", _job(job, "metrics"), params=given(filters))["data"]
        return rows

    def logs(self, job: str, after: int | str | None = None, **filters: Any) -> Iterator[Json]:
        """Yield the log lines of a job, oldest first, beginning after the line `after`; filters: level, search."""
        return self._connection.pages(_job(job, "logs"), "after", {"after": after, **filters})

    def events(self, job: str, after: str | int | None = None, timeout_s: float | None = None) -> Iterator[Event]:
        """Yield the events of a job as they happen, from its first or from the one after `after`, up to `end`.

        The stream resumes where a connection broke, and yields no event twice. An event `reset` means that the service
        does not know the position, because its database was replaced: all events follow again, from the first.

        Raises:
            TimeoutError: The job has not ended within `timeout_s` seconds. It keeps running.
        """
        last = "" if after is None else str(after)
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        for event in self._connection.events(_job(job, "events"), last, deadline):
            if event.type != "open":
                yield event
            if event.type == "end":
                return
        raise TimeoutError(f"job {job} has not ended within {timeout_s} s; it keeps running")

    def follow(self, **filters: Any) -> Iterator[Event]:
        """Yield the events of all jobs that the filters of `GET /v1/jobs` select, from now on and without end.

        The first event is `open`: nothing that happens after it is missed. A further `open` means that the stream had
        to start anew, and that events since the last one may be missing; `reset`, that the database of the service was
        replaced, and that what was known of its jobs may no longer be true.
        """
        yield from self._connection.events("/v1/events", "", math.inf, given(_with_labels(filters)) | {"replay": False})

    # Checkpoints

    def checkpoints(self, job: str) -> Iterator[Json]:
        """Yield the checkpoints of a job, newest first."""
        return self._connection.pages(_job(job, "checkpoints"), "cursor", {})

    def checkpoint(self, checkpoint: CheckpointRef) -> Json:
        """Return one checkpoint: its step, metrics, and files with their size and sha256."""
        if isinstance(checkpoint, tuple):
            return self._connection.json("GET", _job(checkpoint[0], "checkpoints", checkpoint[1]))
        return self._connection.json("GET", path_of("checkpoints", checkpoint))

    def download(
        self,
        checkpoint: CheckpointRef,
        file: str,
        path: str | os.PathLike[str],
        on_progress: OnProgress = lambda done, size: None,
    ) -> Path:
        """Download one file of a checkpoint to `path`, or into the folder `path`, and return where it is.

        Bytes are collected in PATH.part, where an interrupted download, also one of an earlier call, resumes. PATH
        appears once the sha256 has been verified; a device, a pipe or a symbolic link at PATH is then written through.

        Raises:
            CorruptDownload: The file does not match its sha256.
            ValueError: The checkpoint has no such file.
        """
        found = self.checkpoint(checkpoint)
        files: dict[str, Json] = {entry["name"]: entry for entry in found["files"]}
        if file not in files:
            raise ValueError(f"checkpoint {found['id']} has no file {file!r}: it has {', '.join(sorted(files))}")
        # Not the `url` of the answer: the prefix of a proxy may be missing in it.
        url = path_of("checkpoints", found["id"], "files", file)
        size, sha256 = (files[file][name] for name in ("size", "sha256"))
        target = Path(path) / file if Path(path).is_dir() else Path(path)
        with writing(target, resumable=True) as sink:
            kept = sink.name == os.fspath(part_of(target))
            advice = f"; the received bytes are in {sink.name}, and the next download resumes there" if kept else ""
            continued = sink.seek(0, os.SEEK_END) > 0
            self._connection.resume(url, sink, size, sha256, on_progress, advice)
            if continued and _sha256(sink) != sha256:
                # The partial file was of another checkpoint.
                sink.truncate(0)
                self._connection.resume(url, sink, size, sha256, on_progress, advice)
            if _sha256(sink) != sha256:
                sink.truncate(0)
                raise CorruptDownload(f"{file} of checkpoint {found['id']} does not match its sha256; nothing was kept")
        return target

    def evaluate(self, checkpoint: str, *, wait_s: float = 1.0, **asked: Any) -> Json:
        """Evaluate a checkpoint on a worker, wait for the result, and return it.

        Args:
            checkpoint: Id of the checkpoint.
            wait_s: Seconds between two looks at the result; 0 returns the evaluation at once, while it is queued.
            asked: The fields of the request: split, precision, batch_statistics, precise_statistics.
        """
        found = self._connection.json("POST", path_of("checkpoints", checkpoint, "evaluate"), json=given(asked))
        while wait_s and found["status"] in ("queued", "running"):
            time.sleep(wait_s)
            found = self.evaluation(found["id"])
        return found

    def evaluation(self, evaluation: str) -> Json:
        """Return one evaluation of a checkpoint."""
        return self._connection.json("GET", path_of("evaluations", evaluation))

    def evaluations(self, job: str) -> list[Json]:
        """Return the evaluations of the checkpoints of a job, newest first."""
        found: list[Json] = self._connection.json("GET", _job(job, "evaluations"))["data"]
        return found

    # The service

    def cluster(self) -> Json:
        """Return the nodes, slots and workers of the cluster, and the queue."""
        return self._connection.json("GET", "/v1/cluster")

    def storage(self, experiment: str | None = None, *, limit: int = 50) -> Json:
        """Return what the checkpoints take, by experiment and by job: at most `limit` of each, largest first.

        Args:
            experiment: Only the jobs of this experiment.
            limit: The maximum length of each list, up to 500.
        """
        return self._connection.json("GET", "/v1/storage", params=given({"experiment": experiment, "limit": limit}))

    def specification(self) -> Json:
        """Return the JSON schema of a job, with defaults and help."""
        return self._connection.json("GET", "/v1/specification")

    def ready(self) -> Json:
        """Return whether jobs will run, and which check failed: `{"status": ..., "checks": {...}}`."""
        return self._connection.ask_once("/readyz")


def _with_labels(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Filters with their labels in the form of the API, `key:value`."""
    label = filters.get("label")
    pairs = {"label": [f"{key}:{value}" for key, value in label.items()]} if isinstance(label, Mapping) else {}
    return {**filters, **pairs}


def _job(job: str, *rest: str) -> str:
    return path_of("jobs", job, *rest)


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
