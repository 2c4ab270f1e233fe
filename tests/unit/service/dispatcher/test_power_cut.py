"""What was answered survives a power cut: jobs that were accepted, epochs that were recorded, their checkpoints."""

import asyncio
import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import event, text

from gn.cpu.builder import BuildError
from service.artifacts import open_artifacts
from service.dispatcher.leadership import Leadership
from service.dispatcher.orphans import remove_orphans
from service.dispatcher.storage import AttemptStorage
from service.settings import Settings
from service.store import Database, attempts, checkpoints, jobs
from service.store.tables import Attempt, Job, Table
from tests.power_cut import Recording
from tests.unit.service.dispatcher.conftest import no_report
from tests.unit.service.store.acting import create, started
from worker.events import CheckpointTaken, Event, File
from worker.folders import make_folder

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[4]
EPOCHS = 6
CUTS = 8


async def serve(home: Path, answered: Callable[[str], None]) -> None:
    """Accept jobs and record the epochs of one of them, as the api and the dispatcher do, and say what was answered."""
    make_folder(home)
    settings = Settings(home=home)
    async with Database(settings.database) as database:
        # SQLite overwrites its log after a checkpoint of the database, which is to happen often.
        event.listen(database.engine.sync_engine, "connect", checkpoint_soon)
        async with database.migrate() as connection:
            await connection.run_sync(Table.metadata.create_all)
        leadership = Leadership(database, 60, no_report)
        await leadership.acquire()
        answered(await create(database))
        async with leadership.write() as session:
            claimed = await attempts.claim(session, [attempts.FreeWorker("worker", "node")], auto="float32")
        assert isinstance(claimed, tuple)
        storage = AttemptStorage(claimed[1], database, open_artifacts(settings.artifacts), leadership, max_lost=3)
        for epoch in range(1, EPOCHS + 1):
            await record(storage, epoch)
            answered(str(epoch))
            answered(await create(database))


def checkpoint_soon(connection: object, _record: object) -> None:
    connection.cursor().execute("PRAGMA wal_autocheckpoint=20")  # type: ignore[attr-defined]


async def record(storage: AttemptStorage, epoch: int) -> None:
    """Record an epoch and its checkpoint; the job keeps only the last one."""
    files = {"model.safetensors": f"the weights of epoch {epoch}\n".encode() * 100}
    described = {name: File(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()}

    async def fetch(_seq: int) -> dict[str, bytes]:
        return files

    async def nothing() -> None: ...

    taken = CheckpointTaken(seq=epoch + 1, epoch=epoch, step=epoch, metrics={}, files=described)
    reported: list[Event] = [started().model_copy(update={"seq": 1}), taken]
    await storage.record(reported, fetch, keep_last=1, exclusive=asyncio.Lock(), before_retry=nothing)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    (tmp_path / "disk").mkdir()
    try:
        return Recording(tmp_path / "disk", tmp_path)
    except BuildError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{error}. CI is true, so this test may not be skipped.", pytrace=False)
        pytest.skip(str(error))


async def test_what_was_answered_survives_a_power_cut_and_the_job_resumes(recording: Recording, tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys; from pathlib import Path; "
        "from tests.unit.service.dispatcher.test_power_cut import serve; "
        "home, log = map(Path, sys.argv[1:]); "
        "asyncio.run(serve(home, lambda what: print(what, log.stat().st_size, flush=True)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, recording.root / "home", recording.log],
        env=os.environ | recording.environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answers = [(what, int(size)) for what, size in map(str.split, done.stdout.splitlines())]
    synced = recording.read()
    moments = random.Random(0).sample([one.end for one in synced], CUTS)
    for number, moment in enumerate([*moments, *(size for _, size in answers)]):
        disk = tmp_path / f"after-{number}"
        recording.restore([one for one in synced if one.end <= moment], disk)
        said = [what for what, size in answers if size <= moment]
        if said or (disk / "home/normlab.db").exists():
            await check(Settings(home=disk / "home"), said)
        shutil.rmtree(disk)


async def check(settings: Settings, said: list[str]) -> None:
    """Check a home after a power cut: it has what was answered, and nothing else in the artifact store."""
    epochs = [int(what) for what in said if what.isdigit()]
    accepted = {what for what in said if not what.isdigit()}
    artifacts = open_artifacts(settings.artifacts)
    async with Database(settings.database) as database:
        async with database.read() as session:
            assert (await session.scalar(text("PRAGMA integrity_check"))) == "ok"
            if not said:
                return
            existing = {job.id for job in await jobs.of_ids(session, list(accepted))}
            running = await attempts.active(session)
        assert existing == accepted
        leadership = Leadership(database, 60, no_report)
        for job, attempt in running:
            storage = AttemptStorage(attempt, database, artifacts, leadership, max_lost=3)
            files = await storage.latest_checkpoint()
            found = int(files["model.safetensors"].split()[4]) if files else 0
            assert found >= max(epochs, default=0)
            await lose_and_clean_up(database, settings, job, attempt)
        assert running or not epochs


async def lose_and_clean_up(database: Database, settings: Settings, job: Job, attempt: Attempt) -> None:
    """Do what the next dispatcher does, and check that every file has its row."""
    artifacts = open_artifacts(settings.artifacts)
    async with database.write() as session:
        await attempts.lose(session, attempt.id, "the power was cut", 3)
    await remove_orphans(database, artifacts)
    async with database.read() as session:
        rows = await checkpoints.of_job(session, job.id)
    stored: list[str] = []
    with suppress(FileNotFoundError):
        stored = os.listdir(settings.home / "artifacts" / job.id)
    assert stored == [row.id for row in rows]
