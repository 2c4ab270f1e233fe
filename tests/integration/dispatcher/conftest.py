"""Fixtures: a private Ray cluster for the package, and a dispatcher for each test, as real processes.

The training workers persist: each dispatcher adopts the idle workers of earlier tests, as it would after a restart.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from service.jobs import TERMINAL, JobRequest, Status
from service.local.private_ray import free_port
from service.local.ray_start import HOOK
from service.store import Database, checkpoints, events, jobs, leases, metrics
from service.store.tables import Checkpoint, Event, Job, Metric

Found = TypeVar("Found")

PATIENCE_S = 120
CPUS = 2
SMALL = {"name": "synthetic", "train_limit": 128, "test_limit": 50}
"""An epoch has 8 steps of 16 images."""
STUDY = {"epochs": 6, "checkpoint": {"every_epochs": 2}}
"""A job that is long enough for a fault, and for a resume from one of two checkpoints."""


def accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


@pytest.fixture(scope="package")
def ray_environment() -> Iterator[dict[str, str]]:
    """Return the environment of a process that uses the package's Ray cluster, which must not delay later tests."""
    with ray_cluster() as environment:
        yield environment


@contextmanager
def ray_cluster() -> Iterator[dict[str, str]]:
    """Run a Ray cluster, and yield the environment of a process that uses it."""
    port = free_port()
    # Ray's default niceness would let every other process of the tests delay the trainings.
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 40, "RAY_worker_niceness": "0"}
    environment |= {"RAY_START_HOOK": HOOK}
    # Unix sockets need a short path; pytest's temporary folders are too long.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}", f"--num-cpus={CPUS}"]
        command += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=500000000"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        with (Path(folder) / "ray.log").open("wb") as log:
            head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not accepts(port):
                assert head.poll() is None, "Ray did not start"
                assert time.monotonic() < deadline, "Ray does not listen"
                time.sleep(0.05)
            yield environment | {"NORMLAB_RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_HEAD_PID": str(head.pid)}
        finally:
            for member in descendants(head.pid):
                kill(member)
            head.wait()


def descendants(pid: int) -> list[int]:
    """Return a process and its descendants, oldest first. Ray's daemons have separate sessions."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    family: list[int] = []
    pending = [pid]
    while pending:
        family.append(pending.pop(0))
        pending += children.get(family[-1], [])
    return family


def command_of(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@dataclass(frozen=True)
class Outcome:
    """The result of a job: the sha256 of its weights, and its live rows without the throughput."""

    weights: str
    rows: Sequence[tuple[str, int, int, dict[str, float]]]


Undisturbed = dict[str, Outcome]


@pytest.fixture(scope="session")
def undisturbed() -> Undisturbed:
    """The results of undisturbed jobs, by their specification."""
    return {}


class Stack:
    """A database, an artifact folder, and the dispatchers that a test starts."""

    def __init__(self, environment: dict[str, str], home: Path, database: Database, undisturbed: Undisturbed) -> None:
        self.environment, self.home, self.database = environment, home, database
        self.head = int(environment["RAY_HEAD_PID"])
        self._undisturbed = undisturbed
        self.dispatchers: list[subprocess.Popen[bytes]] = []

    def start_dispatcher(self) -> subprocess.Popen[bytes]:
        with (self.home / f"dispatcher-{len(self.dispatchers)}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "service.dispatcher"], env=self.environment, stderr=log)
        self.dispatchers.append(process)
        return process

    def stop(self) -> None:
        for process in self.dispatchers:
            process.kill()
            process.wait()

    async def submit(self, **fields: Any) -> str:
        # `auto` is decided by measured times: two jobs that a test compares could differ in it.
        request = {"precision": "float32", "normalization": {"type": "group"}, "batch_size": 16, "epochs": 2}
        request |= {"dataset": SMALL} | fields
        async with self.database.write() as session:
            return (await jobs.create(session, JobRequest.model_validate(request))).id

    async def cancel(self, *job_ids: str) -> None:
        async with self.database.write() as session:
            for job_id in job_ids:
                await jobs.cancel(session, job_id)

    async def pause(self, job_id: str) -> Job:
        """Return the job when it is paused."""
        async with self.database.write() as session:
            await jobs.pause(session, job_id)
        return await self.wait(job_id, Status.PAUSED)

    async def resume(self, job_id: str) -> None:
        async with self.database.write() as session:
            await jobs.resume(session, job_id)

    async def job(self, job_id: str) -> Job:
        async with self.database.read() as session:
            return await jobs.get(session, job_id)

    async def wait(self, job_id: str, *statuses: Status) -> Job:
        """Return the job when it has one of `statuses`, by default any final one."""
        wanted = frozenset(statuses) or TERMINAL

        async def there() -> Job | None:
            job = await self.job(job_id)
            assert job.status in wanted or job.status not in TERMINAL, f"{job.status}: {job.error}\n{self.log()}"
            return job if job.status in wanted else None

        return await self.until(there, f"{job_id} to be {', '.join(sorted(wanted))}")

    async def wait_for_step(self, job_id: str, step: int) -> Job:
        """Return the job when it has trained `step` steps, in one attempt or several."""

        async def there() -> Job | None:
            job = await self.job(job_id)
            assert job.status not in TERMINAL, f"{job.status} before step {step}: {job.error}"
            return job if job.progress and job.progress["step"] >= step else None

        return await self.until(there, f"{job_id} to reach step {step}")

    async def until(self, condition: Callable[[], Awaitable[Found | None]], what: str) -> Found:
        deadline = time.monotonic() + PATIENCE_S
        while (found := await condition()) is None:
            assert time.monotonic() < deadline, f"timed out waiting for {what}\n{self.log()}"
            assert command_of(self.head), f"the Ray cluster of all these tests has ended, before {what}"
            await asyncio.sleep(0.02)
        return found

    async def training_processes(self, job_id: str) -> list[int]:
        """Return the processes that train a job, by rank, when the dispatcher has reported them."""

        async def there() -> list[int] | None:
            job = await self.job(job_id)
            assert job.status not in TERMINAL, f"{job.status} before its workers were reported: {job.error}"
            told = (await self.report()).get("workers", [])
            held = {worker["id"]: worker["pid"] for worker in told if worker["attempt"] == job.attempt_id}
            if not (attempts := await self.attempts(job_id)):
                return None
            names = [worker["worker"] for worker in attempts[-1].workers]
            return [held[name] for name in names] if all(map(held.get, names)) else None

        return await self.until(there, f"the workers of {job_id}")

    async def training_process(self, job_id: str) -> int:
        """Return the process that trains a job with one worker."""
        (pid,) = await self.training_processes(job_id)
        return pid

    async def report(self) -> dict[str, Any]:
        """Return the last report of the dispatcher."""
        async with self.database.read() as session:
            lease = await leases.get(session, "dispatcher")
        return dict(lease.report) if lease else {}

    async def events(self, job_id: str) -> Sequence[Event]:
        async with self.database.read() as session:
            return await events.after(session, 0, job_id=job_id, limit=100_000)

    async def history(self, job_id: str) -> list[str]:
        return [event.data["status"] for event in await self.events(job_id) if event.type == "status"]

    async def rows(self, job_id: str, kind: str | None = None, **options: Any) -> Sequence[Metric]:
        kinds: dict[str, Any] = {} if kind is None else {"kinds": [kind]}
        async with self.database.read() as session:
            return await metrics.rows(session, job_id, **kinds, **options)

    async def attempts(self, job_id: str) -> Sequence[Any]:
        async with self.database.read() as session:
            return await jobs.attempts(session, job_id)

    async def checkpoints(self, job_id: str) -> Sequence[Checkpoint]:
        async with self.database.read() as session:
            return await checkpoints.of_job(session, job_id)

    async def weights(self, job_id: str) -> str:
        """Return the sha256 of the final weights of a job."""
        latest = (await self.checkpoints(job_id))[0]
        digest: str = latest.files["model.safetensors"]["sha256"]
        return digest

    async def outcome(self, job_id: str) -> Outcome:
        rows = [(row.kind, row.epoch, row.step, dict(row.values)) for row in await self.rows(job_id)]
        for *_, values in rows:
            values.pop("images_per_s", None)
        return Outcome(await self.weights(job_id), rows)

    async def assert_as_if_undisturbed(self, job_id: str, **fields: Any) -> None:
        """Assert that a job has the result of an undisturbed job with `fields`, and each row once."""
        asked = repr(fields)
        if asked not in self._undisturbed:
            alone = await self.submit(**fields)
            await self.wait(alone)
            self._undisturbed[asked] = await self.outcome(alone)
        outcome = await self.outcome(job_id)
        assert outcome == self._undisturbed[asked]
        assert set(Counter((kind, step) for kind, _, step, _ in outcome.rows).values()) == {1}
        evaluated = [epoch for kind, epoch, *_ in outcome.rows if kind == "eval"]
        assert evaluated == list(range(1, fields["epochs"] + 1))

    async def wait_for_starting_workers(self) -> None:
        """Wait until no worker is being started: Ray would start it although its dispatcher has ended."""

        async def none_starts() -> bool | None:
            told = (await self.report()).get("workers", [])
            return True if all(worker["state"] != "starting" for worker in told) else None

        if any(process.poll() is None for process in self.dispatchers):
            await self.until(none_starts, "the workers to start")

    async def end_workers(self) -> None:
        """End the training workers, which occupy the cluster's CPUs."""

        async def all_gone() -> bool | None:
            alive = [pid for pid in descendants(self.head) if b"ray::TrainingWorker" in command_of(pid)]
            for pid in alive:
                kill(pid)
            return True if not alive else None

        await self.until(all_gone, "the workers to end")

    def log(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.home.glob("dispatcher-*.log")))


def actor_of(training_process: int) -> int:
    """Return the actor process that started a training process."""
    return int(stat(training_process)[1])


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@pytest.fixture
def stack_url(tmp_path: Path, sqlite_template: Path) -> str:
    """The URL of the migrated database of the stack."""
    path = shutil.copy(sqlite_template, tmp_path / "normlab.db")
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
async def stack(
    ray_environment: dict[str, str],
    tmp_path: Path,
    stack_url: str,
    undisturbed: Undisturbed,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Stack]:
    """A running dispatcher on a new database; `parametrize("stack", [{...}], indirect=True)` changes settings."""
    changed = {f"NORMLAB_{name}": str(value) for name, value in getattr(request, "param", {}).items()}
    # A worker keeps the lease that it was started with, so tests with another lease must not adopt it.
    own_workers = "NORMLAB_WORKER_LEASE_S" in changed
    environment = ray_environment | {
        "NORMLAB_HOME": str(tmp_path),
        "NORMLAB_DATABASE_URL": stack_url,
        "NORMLAB_DATA_DIR": str(tmp_path / "data"),
        "NORMLAB_RAY_NAMESPACE": tmp_path.name if own_workers else "shared",
        "NORMLAB_DISPATCHER_LEASE_S": "1",
    }
    async with Database(stack_url) as database:
        stack = Stack(environment | changed, tmp_path, database, undisturbed)
        if own_workers:
            await stack.end_workers()
        stack.start_dispatcher()
        try:
            yield stack
        finally:
            if own_workers:
                await stack.wait_for_starting_workers()
            stack.stop()
            if own_workers:
                await stack.end_workers()
