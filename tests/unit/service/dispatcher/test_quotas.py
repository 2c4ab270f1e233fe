"""The limits on the running jobs of each name, as the dispatcher applies them."""

from pathlib import Path

import pytest

from service.dispatcher.quotas import Quotas
from service.jobs import Status
from service.settings import Settings
from service.store import Database, jobs
from service.store.attempts import Pending
from service.store.submitters import Submitter
from tests.unit.service.store.acting import Worker, request

pytestmark = pytest.mark.anyio


def queued(*names: str | None) -> list[Pending]:
    return [Pending(f"job_{number}", Status.QUEUED, 1, name) for number, name in enumerate(names)]


async def test_workers_are_asked_for_as_many_jobs_as_may_run(database: Database, tmp_path: Path) -> None:
    quotas = Quotas(Settings(home=tmp_path, quotas="ada:2:,bob::5,*:1:"))
    async with database.write() as session:
        for name in ("ada", "eve"):
            await jobs.create(session, request(), by=Submitter(name))
    for _ in range(2):
        await Worker.claim(database)
    async with database.read() as session:
        assert list(await quotas.full(session)) == ["eve"]
    assert [(one.name, one.running, one.limit) for one in quotas.report()] == [("eve", 1, 1)]
    pending = [
        *queued("ada", "ada", "eve", "bob", "bob", "ann", "ann", None, None),
        Pending("job_9", Status.CANCELLING, 1, "eve"),
    ]
    kept = [(job.submitted_by, job.status) for job in quotas.allowed(pending)]
    assert kept == [
        ("ada", Status.QUEUED),
        ("bob", Status.QUEUED),
        ("bob", Status.QUEUED),
        ("ann", Status.QUEUED),
        (None, Status.QUEUED),
        (None, Status.QUEUED),
        ("eve", Status.CANCELLING),
    ]


async def test_without_quotas_nothing_is_read_and_everything_is_allowed(database: Database, tmp_path: Path) -> None:
    quotas = Quotas(Settings(home=tmp_path))
    async with database.read() as session:
        assert list(await quotas.full(session)) == []
    pending = queued("ada", "ada", None)
    assert quotas.allowed(pending) == pending
