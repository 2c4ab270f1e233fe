"""A private Ray cluster for the session, and for each test a dispatcher of its own: the real ones, as processes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from service.jobs import TERMINAL, JobRequest, Status
from service.private_ray import client_server_port, free_port
from service.store import Database, checkpoints, events, jobs, leases, metrics
from service.store.migrate import upgrade
from service.store.tables import Checkpoint, Event, Job, Metric

Found = TypeVar("Found")

PATIENCE_S = 120
CPUS = 2
SMALL = {"name": "synthetic", "train_limit": 256, "test_limit": 100}


def accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


@pytest.fixture(scope="session")
def ray_environment() -> Iterator[dict[str, str]]:
    """The environment of a process that may use the session's Ray cluster."""
    port = free_port()
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 40}
    # Unix sockets want a short path, which pytest's temporary folders are not.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}", f"--num-cpus={CPUS}"]
        command += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=500000000"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        command += client_server_port()
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
    """A process and all that stem from it, oldest first: Ray's daemons have sessions of their own."""
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


class Stack:
    """A database, an artifact folder, and as many dispatchers as a test starts."""

    def __init__(self, environment: dict[str, str], home: Path, database: Database) -> None:
        self.environment, self.home, self.database = environment, home, database
        self.head = int(environment["RAY_HEAD_PID"])
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
        request = {"normalization": {"type": "group"}, "batch_size": 32, "epochs": 2, "dataset": SMALL} | fields
        async with self.database.write() as session:
            return (await jobs.create(session, JobRequest.model_validate(request))).id

    async def job(self, job_id: str) -> Job:
        async with self.database.read() as session:
            return await jobs.get(session, job_id)

    async def wait(self, job_id: str, *statuses: Status) -> Job:
        """The job, once it has one of `statuses`; any final one without."""
        wanted = frozenset(statuses) or TERMINAL

        async def there() -> Job | None:
            job = await self.job(job_id)
            assert job.status in wanted or job.status not in TERMINAL, f"{job.status}: {job.error}\n{self.log()}"
            return job if job.status in wanted else None

        return await self.until(there, f"{job_id} to be {', '.join(sorted(wanted))}")

    async def wait_for_step(self, job_id: str, step: int) -> Job:
        """The job, once it has trained `step` steps in one go or several."""

        async def there() -> Job | None:
            job = await self.job(job_id)
            assert job.status not in TERMINAL, f"{job.status} before step {step}: {job.error}"
            return job if job.progress and job.progress["step"] >= step else None

        return await self.until(there, f"{job_id} to reach step {step}")

    async def until(self, condition: Callable[[], Awaitable[Found | None]], what: str) -> Found:
        deadline = time.monotonic() + PATIENCE_S
        while (found := await condition()) is None:
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self.log()}"
            await asyncio.sleep(0.02)
        return found

    async def worker_process(self, job_id: str) -> int:
        """The process that trains a job."""

        async def there() -> int | None:
            job = await self.job(job_id)
            async with self.database.read() as session:
                lease = await leases.get(session, "dispatcher")
            workers = lease.report.get("workers", []) if lease else []
            return next((w["pid"] for w in workers if w["attempt"] == job.attempt_id and w["pid"]), None)

        return await self.until(there, f"the worker of {job_id}")

    async def events(self, job_id: str) -> Sequence[Event]:
        async with self.database.read() as session:
            return await events.after(session, 0, job_id=job_id, limit=100_000)

    async def history(self, job_id: str) -> list[str]:
        return [event.data["status"] for event in await self.events(job_id) if event.type == "status"]

    async def rows(self, job_id: str, kind: str | None = None, **options: Any) -> Sequence[Metric]:
        kinds = {} if kind is None else {"kinds": [kind]}
        async with self.database.read() as session:
            return await metrics.rows(session, job_id, **kinds, **options)

    async def attempts(self, job_id: str) -> Sequence[Any]:
        async with self.database.read() as session:
            return await jobs.attempts(session, job_id)

    async def checkpoints(self, job_id: str) -> Sequence[Checkpoint]:
        async with self.database.read() as session:
            return await checkpoints.of_job(session, job_id)

    async def weights(self, job_id: str) -> str:
        """The sha256 of the weights a job ended with."""
        latest = (await self.checkpoints(job_id))[0]
        digest: str = latest.files["model.safetensors"]["sha256"]
        return digest

    async def end_workers(self) -> None:
        """End the detached workers, which would keep the cluster's CPUs from the next test."""

        async def all_gone() -> bool | None:
            alive = [pid for pid in descendants(self.head) if b"ray::TrainingWorker" in command_of(pid)]
            for pid in alive:
                kill(pid)
            return True if not alive else None

        await self.until(all_gone, "the workers to end")

    def log(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.home.glob("dispatcher-*.log")))


@pytest.fixture
def stack_url(tmp_path: Path) -> str:
    """Where the stack's database is."""
    return f"sqlite+aiosqlite:///{tmp_path / 'normlab.db'}"


@pytest.fixture
async def stack(
    ray_environment: dict[str, str], tmp_path: Path, stack_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[Stack]:
    """A dispatcher at work on a new database; `parametrize("stack", [{...}], indirect=True)` changes settings."""
    changed = {f"NORMLAB_{name}": str(value) for name, value in getattr(request, "param", {}).items()}
    environment = ray_environment | {
        "NORMLAB_HOME": str(tmp_path),
        "NORMLAB_DATABASE_URL": stack_url,
        "NORMLAB_DATA_DIR": str(tmp_path / "data"),
        "NORMLAB_RAY_NAMESPACE": tmp_path.name,
        "NORMLAB_DISPATCHER_LEASE_S": "2",
    }
    async with Database(stack_url) as database:
        await upgrade(database)
        stack = Stack(environment | changed, tmp_path, database)
        stack.start_dispatcher()
        try:
            yield stack
        finally:
            stack.stop()
            await stack.end_workers()
