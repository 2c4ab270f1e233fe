"""Retention removes the checkpoints of jobs that ended some time ago, and none that is needed."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from service.artifacts import LocalArtifacts
from service.dispatcher import retention
from service.dispatcher.leadership import Leadership
from service.errors import Gone, NotFound
from service.settings import Settings
from service.store import Database, checkpoints, evaluations, extensions, jobs
from service.store.tables import Job
from tests.unit.service.artifacts.test_local import EXPECTED, FILES
from tests.unit.service.dispatcher.conftest import no_report
from tests.unit.service.store.acting import Worker, create, request
from worker.evaluation_spec import EvaluationSpec

pytestmark = pytest.mark.anyio

DAYS = 30


class Keeper:
    """A dispatcher that removes what is due when the test asks it to."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.artifacts = database, LocalArtifacts(folder)
        self.leadership = Leadership(database, 60, no_report)
        self.settled: set[str] = set()

    async def remove_due(self, rule: str = "best-and-last") -> None:
        """Remove what is due."""
        settings = Settings(home=self.artifacts.root, retention=rule, retention_days=DAYS)
        await retention.remove_due(settings, self.database, self.artifacts, self.leadership, self.settled)

    async def train(self, *errors: float, ended_days_ago: float = DAYS + 1) -> tuple[str, list[str]]:
        """Train a job with a checkpoint for each error. Returns its id and those of the checkpoints, oldest first."""
        job_id = await create(self.database, epochs=len(errors), schedule={"type": "constant"})
        worker = await Worker.run(self.database)
        ids = [await worker.checkpoint(3 * n, n, test_error=error) for n, error in enumerate(errors, 1)]
        await worker.finish()
        for id_ in ids:
            self.artifacts.write(job_id, id_, FILES, EXPECTED)
        async with self.database.write() as session:
            ended = datetime.now(UTC) - timedelta(days=ended_days_ago)
            await session.execute(update(Job).where(Job.id == job_id).values(finished_at=ended))
        return job_id, ids

    async def kept(self, job_id: str) -> Sequence[str]:
        """Return the ids of the checkpoints of a job, whose files are there, oldest first."""
        async with self.database.read() as session:
            rows = [row.id for row in await checkpoints.of_job(session, job_id)]
        assert sorted(rows) == sorted(self.artifacts.list_checkpoints(job_id))
        return rows[::-1]


@pytest.fixture
async def keeper(database: Database, tmp_path: Path) -> Keeper:
    keeper = Keeper(database, tmp_path / "artifacts")
    await keeper.leadership.acquire()
    return keeper


async def test_the_best_and_the_last_checkpoint_stay(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    job_id, ids = await keeper.train(0.5, 0.2, 0.4, 0.3)
    with caplog.at_level(logging.INFO):
        await keeper.remove_due()
    assert await keeper.kept(job_id) == [ids[1], ids[3]]
    assert "checkpoints removed: RETENTION is best-and-last" in caplog.text
    assert keeper.settled == {job_id}
    async with keeper.database.read() as session:
        assert await checkpoints.stored_bytes(session) == 2 * 111


async def test_none_stays_under_the_rule_none(keeper: Keeper) -> None:
    job_id, _ = await keeper.train(0.5, 0.2)
    await keeper.remove_due("none")
    assert await keeper.kept(job_id) == []


async def test_jobs_that_ended_recently_or_not_at_all_keep_everything(keeper: Keeper) -> None:
    recent, ids = await keeper.train(0.5, 0.2, 0.4, ended_days_ago=DAYS - 1)
    await create(keeper.database)
    worker = await Worker.run(keeper.database)
    taken = [await worker.checkpoint(step) for step in (3, 6)]
    for id_ in taken:
        keeper.artifacts.write(worker.job, id_, FILES, EXPECTED)
    await keeper.remove_due("none")
    assert await keeper.kept(recent) == ids
    assert await keeper.kept(worker.job) == taken


async def test_what_an_unfinished_job_or_evaluation_needs_stays_until_it_has_ended(keeper: Keeper) -> None:
    job_id, (first, second, third, last) = await keeper.train(0.1, 0.5, 0.4, 0.3)
    async with keeper.database.write() as session:
        initialized = await jobs.create(session, request(init_from=second))
        await evaluations.request(session, third, EvaluationSpec())
        extended = await extensions.extend(session, job_id, 10)
    await keeper.remove_due("none")
    assert await keeper.kept(job_id) == [second, third, last]
    assert keeper.settled == set()
    async with keeper.database.write() as session:
        await jobs.cancel(session, initialized.id)
        await jobs.cancel(session, extended.id)
    await keeper.remove_due("none")
    assert await keeper.kept(job_id) == [third]
    with pytest.raises(Gone, match=rf"{first} .* was removed"):
        async with keeper.database.read() as session:
            await checkpoints.get(session, first)


async def test_a_removed_checkpoint_is_gone_and_others_were_never_there(keeper: Keeper) -> None:
    job_id, ids = await keeper.train(0.5, 0.2)
    await keeper.remove_due("none")
    async with keeper.database.read() as session:
        with pytest.raises(Gone, match=r"at step 6, was removed on \d{4}-\d\d-\d\d: .* keeps none \(NORMLAB_RETENTION"):
            await checkpoints.get(session, ids[1])
        with pytest.raises(NotFound):
            await checkpoints.get(session, "checkpoint_0")
        assert await checkpoints.removed_of_job(session, job_id) == 2
    async with keeper.database.write() as session:
        with pytest.raises(Gone):
            await extensions.extend(session, job_id, 10)
    async with keeper.database.write() as session:
        await jobs.delete(session, job_id)
    async with keeper.database.read() as session:
        with pytest.raises(NotFound):
            await checkpoints.get(session, ids[1])


async def test_by_default_everything_stays_and_nothing_is_watched(keeper: Keeper) -> None:
    job_id, ids = await keeper.train(0.5, 0.2, 0.4)
    await keeper.remove_due("all")
    await retention.keep(Settings(home=keeper.artifacts.root), keeper.database, keeper.artifacts, keeper.leadership)
    assert await keeper.kept(job_id) == ids
