"""Fixtures: attempts on scripted workers instead of Ray's; the dispatcher's code and the database are real."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from service.artifacts import ArtifactStore, open_artifacts
from service.cluster_report import ClusterReport, RayReport
from service.dispatcher import attempt as attempt_module
from service.dispatcher import storage as storage_module
from service.dispatcher.attempt import AttemptRun
from service.dispatcher.background import Background
from service.dispatcher.cluster import Cluster, Report, Request, Worker, WorkerGone, WorkerState
from service.dispatcher.datasets import Datasets
from service.dispatcher.leadership import Leadership
from service.dispatcher.pool import Pool
from service.dispatcher.precisions import Precisions
from service.dispatcher.storage import AttemptStorage
from service.experiments.precision import by_device
from service.settings import Settings
from service.store import Database, attempts, events, jobs
from service.store.attempts import FreeWorker
from service.store.tables import Attempt, Job
from tests.unit.service.store.acting import create
from worker.events import Event, Finished, Precision

NEVER = 1000.0


class Scripted(Worker):
    """A scripted worker, which records the requests that it receives."""

    def __init__(
        self,
        ending: Finished | Exception | None,
        *,
        reports: Sequence[Event] = (),
        files: Mapping[str, bytes] | None = None,
        receives: bool = True,
        device: str = "cpu",
        faster: float | None = None,
        asked: list[str] | None = None,
    ) -> None:
        super().__init__("scripted", None, cast(Background, None))
        last = [ending] if isinstance(ending, Finished) else []
        self._events = [event.model_copy(update={"seq": seq}) for seq, event in enumerate([*reports, *last], 1)]
        self._ending, self._files, self._receives = ending, files, receives
        self.device, self.bfloat16, self.faster = device, faster is not None, faster or 1.0
        self.asked: list[str] = [] if asked is None else asked
        self.requested: list[Request] = []
        self.polls: list[tuple[int, float]] = []
        self.killed = False

    async def receive(self, dataset: Any) -> None:
        self.asked.append("receive")
        if not self._receives:
            raise WorkerGone("no space for the images")

    async def start(
        self,
        attempt_id: str,
        spec: dict[str, Any],
        dataset: Any,
        checkpoint: Any,
        rank: int = 0,
        address: str = "",
        precision: Precision | None = None,
        initial: Any = None,
    ) -> None:
        self.asked.append(f"start {rank} {address}".strip())
        self.checkpoint, self.precision, self.initial = checkpoint, precision, initial

    async def compare_precisions(self, model: str, batch_size: int) -> Mapping[Precision, float]:
        self.asked.append(f"compare {model} {batch_size}")
        return {"float32": 1.0, "bfloat16": 1 / self.faster}

    async def rendezvous(self, attempt_id: str) -> str | None:
        self.asked.append("rendezvous")
        return "10.0.0.1:7"

    async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        self.polls.append((after_seq, wait_s))
        if waiting := [event for event in self._events if event.seq > after_seq]:
            return Report(waiting, {event.seq: self._files for event in waiting})
        if isinstance(self._ending, Exception):
            raise self._ending
        await asyncio.sleep(NEVER)
        return Report([], {})

    def state(self, attempt_id: str | None) -> WorkerState:
        """Return what the worker says of itself, busy with an attempt or idle."""
        return WorkerState("node-1", 1, self.device, attempt_id, attempt_id is None, self.bfloat16)

    async def fetch(self, files: Any) -> Mapping[str, bytes]:
        return cast(Mapping[str, bytes], files)

    async def request(self, attempt_id: str, request: Request) -> None:
        self.requested.append(request)

    async def ping(self, wait_s: int) -> None:
        self.heard_at = time.monotonic()

    def kill(self, reason: str = "") -> None:
        self.killed = True


class Images(Datasets):
    """Datasets whose loading the test releases."""

    def __init__(self) -> None:
        self.loaded = asyncio.Event()
        self.loaded.set()
        self.asked = asyncio.Event()

    async def get(self, name: Any, progress: Any) -> Any:
        self.asked.set()
        await self.loaded.wait()
        return f"the images of {name}"


@dataclass
class Bench:
    """Starts attempts on scripted workers, and reads what they store."""

    database: Database
    leadership: Leadership
    artifacts: ArtifactStore
    pool: Pool
    precisions: Precisions
    images: Images = field(default_factory=Images)

    async def claim(self, *workers: Scripted, **fields: Any) -> AttemptRun:
        """Create a job and an attempt of it on the workers."""
        await create(self.database, num_workers=len(workers), **{"batch_size": 8} | fields)
        return await self.claim_next(*workers)

    async def claim_next(self, *workers: Scripted) -> AttemptRun:
        """Create an attempt of the next queued job on the workers."""
        for rank, worker in enumerate(workers):
            worker.name = f"worker-{rank}"
        free = [FreeWorker(worker.name, "node-1") for worker in workers]
        async with self.leadership.write() as session:
            auto = by_device([(worker.device, worker.bfloat16) for worker in workers])
            claimed = await attempts.claim(session, free, auto=auto.precision if auto else None)
        assert isinstance(claimed, tuple)
        job, attempt = claimed
        slots = [self.pool.adopt(worker, worker.state(attempt.id), busy=True) for worker in workers]
        return AttemptRun(job, attempt, slots, self.storage(attempt), self.images, self.pool, self.precisions, NEVER)

    def storage(self, attempt: Attempt) -> AttemptStorage:
        """Return the storage of the attempt."""
        return AttemptStorage(attempt, self.database, self.artifacts, self.leadership, max_lost=3)

    async def run(self, *workers: Scripted, **fields: Any) -> Attempt:
        """Run an attempt of a new job to its end."""
        run = await self.claim(*workers, **fields)
        await run.run()
        return await self.attempt(run)

    async def attempt(self, run: AttemptRun) -> Attempt:
        async with self.database.read() as session:
            return next(one for one in await jobs.attempts(session, run.job_id) if one.id == run.attempt_id)

    async def job(self, run: AttemptRun) -> Job:
        async with self.database.read() as session:
            return await jobs.get(session, run.job_id)

    async def logged(self, run: AttemptRun) -> list[tuple[str, str]]:
        """Return the lines of the job's log."""
        async with self.database.read() as session:
            lines = await events.of_type(session, run.job_id, "log")
        return [(line.data["level"], line.data["message"]) for line in lines]

    def idle(self) -> set[str]:
        """Return the workers that were released."""
        return {worker.id for worker in self.pool.report() if worker.state == "idle"}

    async def replace_leader(self) -> None:
        """Let another dispatcher take over."""
        await self.leadership.release()
        await Leadership(self.database, 60, no_report).acquire()


def no_report() -> ClusterReport:
    return ClusterReport(ray=RayReport(status="unreachable"))


@pytest.fixture
async def bench(tmp_path: Path, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    async def share(files: Any) -> Any:
        return files

    monkeypatch.setattr(attempt_module, "share", share)
    monkeypatch.setattr(attempt_module, "SETTLE_S", 0.01)
    monkeypatch.setattr(storage_module, "RETRY_S", 0)
    monkeypatch.setattr(storage_module, "STORAGE_FULL_RETRY_S", 0)
    settings = Settings(home=tmp_path)
    url = f"sqlite+aiosqlite:///{shutil.copy(sqlite_template, tmp_path / 'normlab.db')}"
    async with Database(url) as database:
        leadership = Leadership(database, 60, no_report)
        await leadership.acquire()
        pool = Pool(cast(Cluster, None), settings, lambda: None)
        yield Bench(database, leadership, open_artifacts(settings.artifacts), pool, Precisions(pool))
