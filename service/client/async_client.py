"""The client for asyncio: the methods of `Client`, as coroutines and asynchronous iterators.

```python
async with AsyncClient() as client:
    jobs = [await client.submit({"normalization": {"type": "batch"}, "batch_size": size}) for size in (2, 32)]
    await asyncio.gather(*(client.wait(job["id"]) for job in jobs))
```

Files are transferred by `Client`: downloads of checkpoints, and bundles.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from service.client import job_calls
from service.client.async_connection import AsyncConnection
from service.client.async_experiments import AsyncExperiments
from service.client.connection import Event
from service.client.job_calls import CheckpointRef
from service.client.records import Records

if TYPE_CHECKING:
    from service.jobs import JobRequest

Json = dict[str, Any]


class AsyncClient:
    """A client of one service for asyncio. Its arguments, methods and errors are those of `Client`.

    Args:
        base_url: Address of the service; by default NORMLAB_URL, else http://127.0.0.1:8000.
        token: Bearer token; by default NORMLAB_TOKEN, if set.
        timeout_s: Seconds to wait for each answer.
        backoff_s: Seconds before the first repeat of a request; each further pause is twice as long, up to 2 s.
        retry_s: Seconds for which a request is repeated.
        patience_s: Seconds for which an event stream tries to resume.
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
        self._connection = AsyncConnection(
            base_url, token, timeout_s=timeout_s, backoff_s=backoff_s, retry_s=retry_s, patience_s=patience_s
        )
        self.base_url = self._connection.base_url
        self.experiments = AsyncExperiments(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    # Jobs

    async def submit(self, request: "Mapping[str, Any] | JobRequest", idempotency_key: str | None = None) -> Json:
        """Queue a job and return it. A second submission with the same key returns the first job."""
        return await self._connection.run(job_calls.submit(request, idempotency_key))

    def jobs(self, *, max_jobs: int | None = None, **filters: Any) -> AsyncIterator[Json]:
        """Yield the jobs, newest first unless `sort` is given, page after page; see `Client.jobs`."""
        return self._connection.pages(job_calls.jobs(max_jobs, filters))

    async def job(self, job: str) -> Json:
        """Return one job: its spec as it runs, status, progress, summary and attempts."""
        return await self._connection.run(job_calls.job(job))

    async def change(
        self,
        job: str,
        *,
        name: str | None = None,
        notes: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        priority: int | None = None,
    ) -> Json:
        """Change the name, the notes, the labels or the priority of a job. A label of None is removed."""
        call = job_calls.change(job, name=name, notes=notes, labels=labels, priority=priority)
        return await self._connection.run(call)

    async def cancel(self, job: str) -> Json:
        """Stop a job for good. Does nothing to a job that is cancelled already."""
        return await self._connection.run(job_calls.act(job, "cancel"))

    async def pause(self, job: str) -> Json:
        """Stop a job at a checkpoint, until it is resumed."""
        return await self._connection.run(job_calls.act(job, "pause"))

    async def resume(self, job: str) -> Json:
        """Queue a paused job again. It continues from its checkpoint."""
        return await self._connection.run(job_calls.act(job, "resume"))

    async def retry(self, job: str) -> Json:
        """Queue a new job with the spec of one that failed or was cancelled, and return the new job."""
        return await self._connection.run(job_calls.act(job, "retry"))

    async def extend(self, job: str, epochs: int) -> Json:
        """Queue a new job that continues a succeeded one until `epochs` epochs are done, and return the new job."""
        return await self._connection.run(job_calls.extend(job, epochs))

    async def delete(self, job: str) -> None:
        """Delete a job that has ended, with its metrics and checkpoints."""
        await self._connection.request("DELETE", job_calls.path(job))

    async def wait(self, job: str, timeout_s: float | None = None) -> Json:
        """Wait until a job has ended, and return it.

        Raises:
            TimeoutError: The job has not ended within `timeout_s` seconds. It keeps running.
        """
        async for _ in self.events(job, timeout_s=timeout_s):
            pass
        return await self.job(job)

    async def metrics(self, job: str, **filters: Any) -> Records:
        """Return the metrics of a job in the order of their steps; see `Client.metrics`."""
        return await self._connection.run(job_calls.metrics(job, filters))

    def logs(self, job: str, after: int | str | None = None, **filters: Any) -> AsyncIterator[Json]:
        """Yield the log lines of a job, oldest first, beginning after the line `after`; filters: level, search."""
        return self._connection.pages(job_calls.logs(job, after, filters))

    async def events(
        self, job: str, after: str | int | None = None, timeout_s: float | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield the events of a job as they happen, from its first or from the one after `after`, up to `end`.

        The stream resumes where a connection broke, and yields no event twice; see `Client.events`.

        Raises:
            TimeoutError: The job has not ended within `timeout_s` seconds. It keeps running.
        """
        last = "" if after is None else str(after)
        path, deadline = job_calls.path(job, "events"), job_calls.deadline_of(timeout_s)
        async with aclosing(self._connection.events(path, last, deadline)) as events:
            async for event in events:
                if event.type != "open":
                    yield event
                if event.type == "end":
                    return
        raise job_calls.not_ended(job, timeout_s)

    async def follow(self, **filters: Any) -> AsyncGenerator[Event, None]:
        """Yield the events of all jobs that the filters of `GET /v1/jobs` select; see `Client.follow`."""
        events = self._connection.events("/v1/events", "", math.inf, job_calls.all_events(filters))
        async with aclosing(events):
            async for event in events:
                yield event

    # Checkpoints

    def checkpoints(self, job: str) -> AsyncIterator[Json]:
        """Yield the checkpoints of a job, newest first."""
        return self._connection.pages(job_calls.checkpoints(job))

    async def checkpoint(self, checkpoint: CheckpointRef) -> Json:
        """Return one checkpoint: its step, metrics, and files with their size and sha256."""
        return await self._connection.run(job_calls.checkpoint(checkpoint))

    async def evaluate(self, checkpoint: str, *, wait_s: float = 1.0, **asked: Any) -> Json:
        """Evaluate a checkpoint on a worker, wait for the result, and return it; see `Client.evaluate`."""
        found = await self._connection.run(job_calls.evaluate(checkpoint, asked))
        while wait_s and not job_calls.has_ended(found):
            await asyncio.sleep(wait_s)
            found = await self.evaluation(found["id"])
        return found

    async def evaluation(self, evaluation: str) -> Json:
        """Return one evaluation of a checkpoint."""
        return await self._connection.run(job_calls.evaluation(evaluation))

    async def evaluations(self, job: str) -> Records:
        """Return the evaluations of the checkpoints of a job, newest first."""
        return await self._connection.run(job_calls.evaluations(job))

    # The service

    async def cluster(self) -> Json:
        """Return the nodes, slots and workers of the cluster, and the queue."""
        return await self._connection.run(job_calls.cluster())

    async def storage(self, experiment: str | None = None, *, limit: int = 50) -> Json:
        """Return what the checkpoints take, as `Client.storage` does."""
        return await self._connection.run(job_calls.storage(experiment, limit))

    def deliveries(
        self, *, max_deliveries: int | None = None, status: Sequence[str] | None = None
    ) -> AsyncIterator[Json]:
        """Yield the deliveries of the webhook of the last 30 days, newest first; see `Client.deliveries`."""
        return self._connection.pages(job_calls.deliveries(max_deliveries, status))

    async def specification(self) -> Json:
        """Return the JSON schema of a job, with defaults and help."""
        return await self._connection.run(job_calls.specification())

    async def ready(self) -> Json:
        """Return whether jobs will run, and which check failed: `{"status": ..., "checks": {...}}`."""
        return await self._connection.ask_once("/readyz")
