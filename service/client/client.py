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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from service.client import job_calls
from service.client.connection import Connection, Event, OnProgress
from service.client.errors import CorruptDownload
from service.client.experiments import Experiments
from service.client.files import part_of, writing
from service.client.job_calls import CheckpointRef
from service.client.records import Records
from service.client.requests import path_of

if TYPE_CHECKING:
    from service.jobs import JobRequest

Json = dict[str, Any]


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
        return self._connection.run(job_calls.submit(request, idempotency_key))

    def jobs(self, *, max_jobs: int | None = None, **filters: Any) -> Iterator[Json]:
        """Yield the jobs, newest first unless `sort` is given, page after page.

        Args:
            max_jobs: Stop after this number of jobs.
            filters: The query parameters of `GET /v1/jobs`; `label` may be a dictionary.
        """
        return self._connection.pages(job_calls.jobs(max_jobs, filters))

    def job(self, job: str) -> Json:
        """Return one job: its spec as it runs, status, progress, summary and attempts."""
        return self._connection.run(job_calls.job(job))

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
        return self._connection.run(job_calls.change(job, name=name, notes=notes, labels=labels, priority=priority))

    def cancel(self, job: str) -> Json:
        """Stop a job for good. Does nothing to a job that is cancelled already."""
        return self._connection.run(job_calls.act(job, "cancel"))

    def pause(self, job: str) -> Json:
        """Stop a job at a checkpoint, until it is resumed."""
        return self._connection.run(job_calls.act(job, "pause"))

    def resume(self, job: str) -> Json:
        """Queue a paused job again. It continues from its checkpoint."""
        return self._connection.run(job_calls.act(job, "resume"))

    def retry(self, job: str) -> Json:
        """Queue a new job with the spec of one that failed or was cancelled, and return the new job."""
        return self._connection.run(job_calls.act(job, "retry"))

    def extend(self, job: str, epochs: int) -> Json:
        """Queue a new job that continues a succeeded one until `epochs` epochs are done, and return the new job."""
        return self._connection.run(job_calls.extend(job, epochs))

    def delete(self, job: str) -> None:
        """Delete a job that has ended, with its metrics and checkpoints."""
        self._connection.request("DELETE", job_calls.path(job))

    def wait(self, job: str, timeout_s: float | None = None) -> Json:
        """Wait until a job has ended, and return it.

        Raises:
            TimeoutError: The job has not ended within `timeout_s` seconds. It keeps running.
        """
        for _ in self.events(job, timeout_s=timeout_s):
            pass
        return self.job(job)

    def metrics(self, job: str, **filters: Any) -> Records:
        """Return the metrics of a job in the order of their steps.

        Args:
            job: Id of the job.
            filters: The query parameters of the API: kind, after_step, max_points, superseded.
        """
        return self._connection.run(job_calls.metrics(job, filters))

    def logs(self, job: str, after: int | str | None = None, **filters: Any) -> Iterator[Json]:
        """Yield the log lines of a job, oldest first, beginning after the line `after`; filters: level, search."""
        return self._connection.pages(job_calls.logs(job, after, filters))

    def events(self, job: str, after: str | int | None = None, timeout_s: float | None = None) -> Iterator[Event]:
        """Yield the events of a job as they happen, from its first or from the one after `after`, up to `end`.

        The stream resumes where a connection broke, and yields no event twice. An event `reset` means that the service
        does not know the position, because its database was replaced: all events follow again, from the first.

        Raises:
            TimeoutError: The job has not ended within `timeout_s` seconds. It keeps running.
        """
        last = "" if after is None else str(after)
        for event in self._connection.events(job_calls.path(job, "events"), last, job_calls.deadline_of(timeout_s)):
            if event.type != "open":
                yield event
            if event.type == "end":
                return
        raise job_calls.not_ended(job, timeout_s)

    def follow(self, **filters: Any) -> Iterator[Event]:
        """Yield the events of all jobs that the filters of `GET /v1/jobs` select, from now on and without end.

        The first event is `open`: nothing that happens after it is missed. A further `open` means that the stream had
        to start anew, and that events since the last one may be missing; `reset`, that the database of the service was
        replaced, and that what was known of its jobs may no longer be true.
        """
        yield from self._connection.events("/v1/events", "", math.inf, job_calls.all_events(filters))

    # Checkpoints

    def checkpoints(self, job: str) -> Iterator[Json]:
        """Yield the checkpoints of a job, newest first."""
        return self._connection.pages(job_calls.checkpoints(job))

    def checkpoint(self, checkpoint: CheckpointRef) -> Json:
        """Return one checkpoint: its step, metrics, and files with their size and sha256."""
        return self._connection.run(job_calls.checkpoint(checkpoint))

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
        found = self._connection.run(job_calls.evaluate(checkpoint, asked))
        while wait_s and not job_calls.has_ended(found):
            time.sleep(wait_s)
            found = self.evaluation(found["id"])
        return found

    def evaluation(self, evaluation: str) -> Json:
        """Return one evaluation of a checkpoint."""
        return self._connection.run(job_calls.evaluation(evaluation))

    def evaluations(self, job: str) -> Records:
        """Return the evaluations of the checkpoints of a job, newest first."""
        return self._connection.run(job_calls.evaluations(job))

    # The service

    def cluster(self) -> Json:
        """Return the nodes, slots and workers of the cluster, and the queue."""
        return self._connection.run(job_calls.cluster())

    def storage(self, experiment: str | None = None, *, limit: int = 50) -> Json:
        """Return what the checkpoints take, by experiment and by job: at most `limit` of each, largest first.

        Args:
            experiment: Only the jobs of this experiment.
            limit: The maximum length of each list, up to 500.
        """
        return self._connection.run(job_calls.storage(experiment, limit))

    def deliveries(self, *, max_deliveries: int | None = None, status: Sequence[str] | None = None) -> Iterator[Json]:
        """Yield the deliveries of the webhook of the last 30 days, newest first.

        Args:
            max_deliveries: Stop after this number of deliveries.
            status: Only those in one of these statuses: waiting, pending, delivered, failed.
        """
        return self._connection.pages(job_calls.deliveries(max_deliveries, status))

    def specification(self) -> Json:
        """Return the JSON schema of a job, with defaults and help."""
        return self._connection.run(job_calls.specification())

    def ready(self) -> Json:
        """Return whether jobs will run, and which check failed: `{"status": ..., "checks": {...}}`."""
        return self._connection.ask_once("/readyz")


def _sha256(file: BinaryIO) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
