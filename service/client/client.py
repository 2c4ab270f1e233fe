"""The Python client of the HTTP API; the command line stands on it.

```python
with Client() as client:
    job = client.submit({"normalization": {"type": "group", "num_groups": 8}, "batch_size": 2})
    for event in client.events(job["id"]):
        print(event.type, event.data)
    client.download((job["id"], "best"), "model.safetensors", "model.safetensors")
```

What the API answers is handed on as plain dictionaries. Every error is a `ClientError` whose text is for people.
"""

import hashlib
import itertools
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx2

from service.client.connection import (
    ApiError,
    Attempts,
    ClientError,
    ConnectionFailed,
    CorruptDownload,
    NotNormlab,
    given,
    raise_problem,
)
from service.client.experiments import Experiments
from service.settings import is_loopback

if TYPE_CHECKING:
    from service.jobs import JobRequest

__all__ = [
    "ApiError",
    "CheckpointRef",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "CorruptDownload",
    "Event",
    "NotNormlab",
]

Json = dict[str, Any]
CheckpointRef = str | tuple[str, str]
"""The id of a checkpoint, or (job, "best") or (job, "latest")."""

DEFAULT_URL = "http://127.0.0.1:8000"

_SILENCE_S = 60.0  # the service sends a comment into a quiet stream every 15 s


@dataclass(frozen=True)
class Event:
    """One server-sent event. `id` is empty before the first event that has one."""

    id: str
    type: str
    data: Json


class Client(Experiments):
    """Talks to one service.

    `base_url` defaults to NORMLAB_URL, else http://127.0.0.1:8000; `token` to NORMLAB_TOKEN. A request is repeated
    for `retry_s` seconds while the connection fails or the service is unavailable; a stream of events or a download is
    taken up again until nothing answered for `patience_s` seconds.

    Methods raise `ApiError` when the service refuses and `ConnectionFailed` when it cannot be reached.
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
        self.base_url = (base_url or os.environ.get("NORMLAB_URL") or DEFAULT_URL).rstrip("/")
        url = httpx2.URL(self.base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"the address of the service is {self.base_url!r}: give one like {DEFAULT_URL}")
        token = token or os.environ.get("NORMLAB_TOKEN")
        self._http = httpx2.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout_s,
            trust_env=not is_loopback(url.host),
            follow_redirects=True,
        )
        self._backoff_s = backoff_s
        self._retry_s = retry_s
        self._patience_s = patience_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # Jobs

    def submit(self, request: "Mapping[str, Any] | JobRequest", idempotency_key: str | None = None) -> Json:
        """Queue a job. A key of one's own makes the same submission twice one job, over any time."""
        body = dict(request) if isinstance(request, Mapping) else request.model_dump(mode="json")
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._json("POST", "/v1/jobs", json=body, headers=headers)

    def jobs(self, *, max_jobs: int | None = None, **filters: Any) -> Iterator[Json]:
        """The jobs, newest first unless `sort` says otherwise, page after page. Filters as in `GET /v1/jobs`;
        `label` may be a dictionary."""
        filters = _named(filters)
        if max_jobs is not None:
            filters.setdefault("limit", min(max_jobs, 100))
        return itertools.islice(self._pages("/v1/jobs", "cursor", filters), max_jobs)

    def job(self, job: str) -> Json:
        """One job: its spec as it runs, status, progress, summary, attempts."""
        return self._json("GET", _job(job))

    def cancel(self, job: str) -> Json:
        """Stop a job for good. Repeating is harmless."""
        return self._json("POST", _job(job, "cancel"))

    def pause(self, job: str) -> Json:
        """Have a job take a checkpoint and stop until it is resumed."""
        return self._json("POST", _job(job, "pause"))

    def resume(self, job: str) -> Json:
        """Queue a paused job again, from its checkpoint."""
        return self._json("POST", _job(job, "resume"))

    def retry(self, job: str) -> Json:
        """Queue a new job with the spec of one that failed or was cancelled; answers the new one."""
        return self._json("POST", _job(job, "retry"))

    def delete(self, job: str) -> None:
        """Remove a job that has ended, with its metrics and checkpoints."""
        self._request("DELETE", _job(job))

    def wait(self, job: str, timeout_s: float | None = None) -> Json:
        """The job once it has ended. Raises TimeoutError after `timeout_s` seconds; the job runs on."""
        for _ in self.events(job, timeout_s=timeout_s):
            pass
        return self.job(job)

    def metrics(self, job: str, **filters: Any) -> list[Json]:
        """The metrics of a job in order; filters as in the API: kind, after_step, max_points, superseded."""
        rows: list[Json] = self._json("GET", _job(job, "metrics"), params=given(filters))["data"]
        return rows

    def logs(self, job: str, after: int | str | None = None, **filters: Any) -> Iterator[Json]:
        """The log of a job in order, from the line after `after` on; filters: level, search."""
        return self._pages(_job(job, "logs"), "after", {"after": after, **filters})

    def events(self, job: str, after: str | int | None = None, timeout_s: float | None = None) -> Iterator[Event]:
        """What happens to a job, from its beginning or from the event after `after` on, up to and with the event
        `end`. A broken connection is taken up again where it broke; no event comes twice. Raises TimeoutError after
        `timeout_s` seconds."""
        last = "" if after is None else str(after)
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        for event in self._stream(_job(job, "events"), last, deadline):
            if event.type != "open":
                yield event
            if event.type == "end":
                return
        raise TimeoutError(f"job {job} has not ended within {timeout_s} s; it runs on")

    def follow(self, **filters: Any) -> Iterator[Event]:
        """What happens from now on to the jobs that filters of `GET /v1/jobs` choose, without end.

        The first event is `open`: nothing that happens after it is missed. It comes again where the stream had to begin
        anew, and what happened since the last event is not told.
        """
        yield from self._stream("/v1/events", "", math.inf, given(_named(filters)) | {"replay": False})

    def _stream(
        self, path: str, last: str, deadline: float, params: Mapping[str, Any] | None = None
    ) -> Iterator[Event]:
        """The events after `last`, taken up again wherever the connection breaks; ends at the deadline."""
        attempts = Attempts(self.base_url, self._backoff_s, self._patience_s)
        while True:
            with attempts:
                silence_s = max(min(_SILENCE_S, deadline - time.monotonic()), 0.001)
                headers = {"Last-Event-ID": last} if last else {}
                with self._http.sse(path, params=params, headers=headers, timeout=silence_s) as source:
                    raise_problem(source.response)
                    if not last:
                        yield Event("", "open", {})
                    for sent in source:
                        attempts.succeed()
                        last = sent.id or last
                        if sent.data:
                            yield Event(last, sent.event, json.loads(sent.data))
                        if time.monotonic() > deadline:
                            break
            if time.monotonic() > deadline:
                return
            attempts.pause()

    # Checkpoints

    def checkpoints(self, job: str) -> Iterator[Json]:
        """The checkpoints of a job, newest first."""
        return self._pages(_job(job, "checkpoints"), "cursor", {})

    def checkpoint(self, checkpoint: CheckpointRef) -> Json:
        """One checkpoint: its step, metrics, and files with their size and sha256."""
        if isinstance(checkpoint, tuple):
            return self._json("GET", _job(checkpoint[0], "checkpoints", checkpoint[1]))
        return self._json("GET", f"/v1/checkpoints/{quote(checkpoint, safe='')}")

    def download(
        self,
        checkpoint: CheckpointRef,
        file: str,
        path: str | os.PathLike[str],
        on_progress: Callable[[int, int], object] = lambda done, size: None,
    ) -> Path:
        """Fetch one file of a checkpoint to `path`, or into the folder `path`.

        The bytes collect in PATH.part, where a download that was cut, by this call or an earlier one, goes on; PATH
        appears once its sha256 is right. Raises `CorruptDownload` if it is not, and ValueError for a file that the
        checkpoint does not have.
        """
        found = self.checkpoint(checkpoint)
        files: dict[str, Json] = {entry["name"]: entry for entry in found["files"]}
        if file not in files:
            raise ValueError(f"checkpoint {found['id']} has no file {file!r}: it has {', '.join(sorted(files))}")
        target = Path(path) / file if Path(path).is_dir() else Path(path)
        part = target.with_name(target.name + ".part")
        continued = part.exists() and part.stat().st_size > 0
        self._fetch(part, files[file], on_progress)
        if continued and _sha256(part) != files[file]["sha256"]:
            # What was there before belonged to another file.
            part.unlink()
            self._fetch(part, files[file], on_progress)
        if _sha256(part) != files[file]["sha256"]:
            part.unlink()
            raise CorruptDownload(f"{file} of checkpoint {found['id']} does not match its sha256; nothing was kept")
        os.replace(part, target)
        return target

    def _fetch(self, part: Path, file: Json, on_progress: Callable[[int, int], object]) -> None:
        """Bring `part` to the size of `file`, from wherever it stands."""
        size: int = file["size"]
        kept = f"; what came is in {part}, where the next download goes on"
        attempts = Attempts(self.base_url, self._backoff_s, self._patience_s, kept)
        with part.open("ab") as sink:
            if sink.tell() > size:
                sink.truncate(0)
            while (done := sink.seek(0, os.SEEK_END)) < size:
                on_progress(done, size)
                headers = {"Accept-Encoding": "identity"}
                if done:
                    headers |= {"Range": f"bytes={done}-", "If-Range": f'"{file["sha256"]}"'}
                with attempts, self._http.stream("GET", file["url"], headers=headers) as response:
                    raise_problem(response)
                    if response.status_code != 206:
                        sink.truncate(0)
                    for chunk in response.iter_raw():
                        sink.write(chunk)
                        attempts.succeed()
                        on_progress(sink.tell(), size)
                if sink.tell() < size:
                    attempts.pause()
            sink.flush()
            os.fsync(sink.fileno())
        on_progress(size, size)

    # The service

    def cluster(self) -> Json:
        """Nodes, slots, workers and devices."""
        return self._json("GET", "/v1/cluster")

    def specification(self) -> Json:
        """The JSON schema of a job, with defaults and help."""
        return self._json("GET", "/v1/specification")

    def ready(self) -> Json:
        """Whether the service can work, and what it lacks: `{"status": ..., "checks": {...}}`."""
        with Attempts(self.base_url, 0, 0) as attempts:
            return self._decode(self._http.get("/readyz"))
        raise attempts.error

    def _pages(self, path: str, cursor: str, filters: Mapping[str, Any]) -> Iterator[Json]:
        params = given(filters)
        while True:
            page = self._json("GET", path, params=params)
            yield from page["data"]
            if page.get("next_cursor") is None:
                return
            params[cursor] = page["next_cursor"]

    def _json(self, method: str, path: str, **options: Any) -> Json:
        return self._decode(self._request(method, path, **options))

    def _decode(self, response: httpx2.Response) -> Json:
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise NotNormlab(self.base_url, "no JSON object")
        return document

    def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        # Every request of this API may be sent twice: a submission carries a key, and the verbs are harmless to repeat.
        attempts = Attempts(self.base_url, self._backoff_s, self._retry_s)
        while True:
            with attempts:
                response = self._http.request(method, path, **options)
                if method == "DELETE" and attempts.lost_an_answer and response.status_code == 404:
                    return response
                raise_problem(response)
                return response
            attempts.pause()

    def _save(self, path: str, target: Path, **options: Any) -> None:
        attempts = Attempts(self.base_url, self._backoff_s, self._retry_s)
        while True:
            with attempts, self._http.stream("GET", path, **options) as response, target.open("wb") as sink:
                raise_problem(response)
                for chunk in response.iter_raw():
                    sink.write(chunk)
                return
            attempts.pause()


def _named(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Filters with labels as the API has them."""
    label = filters.get("label")
    pairs = {"label": [f"{key}:{value}" for key, value in label.items()]} if isinstance(label, Mapping) else {}
    return {**filters, **pairs}


def _job(job: str, *rest: str) -> str:
    return "/".join(["/v1/jobs", quote(job, safe=""), *(quote(part, safe="") for part in rest)])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
