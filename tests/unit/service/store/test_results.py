"""The rows of which results and costs are computed, read from both databases."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from service.errors import Unprocessable
from service.experiments.runs import Speed
from service.jobs import Status
from service.store import Database, jobs, results
from service.store.listing import JobFilter
from service.store.tables import Attempt
from tests.unit.service.store.acting import FINAL, Worker, create, row

pytestmark = pytest.mark.anyio


async def lasted(database: Database, attempt_id: str, seconds: float) -> None:
    """Set the duration of an attempt that has ended."""
    async with database.write() as session:
        attempt = await session.get(Attempt, attempt_id)
        assert attempt is not None
        ended = attempt.started_at + timedelta(seconds=seconds)
        await session.execute(update(Attempt).where(Attempt.id == attempt_id).values(ended_at=ended))


async def test_a_run_is_a_job_and_what_its_attempts_used(database: Database) -> None:
    waiting = await create(database, seed=3, batch_size=4)
    first = await Worker.run(database)
    await first.report(row(3, test_error=0.5))
    await first.lose()
    second = await Worker.run(database, resumed_from_step=3)
    await second.report(row(6, test_error=0.25))
    await second.finish()
    await lasted(database, first.attempt, 10)
    await lasted(database, second.attempt, 20)
    queued = await create(database)
    async with database.read() as session:
        ran, idle = await results.runs(session, JobFilter())
    assert (ran.id, ran.status, ran.seed, ran.spec["batch_size"]) == (waiting, Status.SUCCEEDED, 3, 4)
    assert (ran.device, ran.precision) == ("cpu", "float32")
    assert ran.device_s == pytest.approx(30)
    assert ran.summary["test_error"]["last_5"] == [0.5, 0.25]
    assert (idle.id, idle.status, idle.device, idle.device_s) == (queued, Status.QUEUED, None, 0.0)


async def test_a_retried_job_is_left_to_its_retry(database: Database) -> None:
    failed = await create(database)
    await (await Worker.run(database)).fail(FINAL)
    async with database.write() as session:
        retry = (await jobs.retry(session, failed)).id
    async with database.read() as session:
        assert [run.id for run in await results.runs(session, JobFilter())] == [retry]


async def test_more_jobs_than_a_table_can_hold_are_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MAX_RUNS", 2)
    for _ in range(2):
        await create(database)
    async with database.read() as session:
        assert len(await results.runs(session, JobFilter())) == 2
    await create(database)
    async with database.read() as session:
        with pytest.raises(Unprocessable, match="more than 2 jobs: narrow them"):
            await results.runs(session, JobFilter())


async def test_a_step_has_the_rows_that_count(database: Database) -> None:
    other, job_id = await create(database, batch_size=8, priority=1), await create(database)
    worker = await Worker.run(database)
    await worker.report(row(3, test_error=0.5), row(6, test_error=0.4, test_loss=1.0), row(6, "train", train_error=0.1))
    await worker.lose()
    again = await Worker.run(database, resumed_from_step=3)
    await again.report(row(6, test_error=0.3), row(9, test_error=float("nan")))

    async def at(metric: str, step: int) -> dict[str, Any]:
        async with database.read() as session:
            return await results.values_at(session, JobFilter(batch_size=[8]), metric, step)

    assert await at("test_error", 6) == {other: 0.3}
    assert await at("test_error", 9) == {other: None}
    assert await at("train_error", 6) == {}, "its row was superseded"
    assert await at("test_error", 4) == {}
    async with database.read() as session:
        assert await results.values_at(session, JobFilter(batch_size=[2]), "test_error", 6) == {}
        assert (await jobs.get(session, job_id)).status is Status.QUEUED


async def test_speeds_are_those_of_the_newest_jobs_on_a_model(database: Database) -> None:
    for number, (model, speed) in enumerate([("vgg", 10.0), ("resnet20", 99.0), ("vgg", 30.0), ("vgg", None)]):
        await create(database, model=model, batch_size=2 + number)
        worker = await Worker.run(database)
        if speed is not None:
            await worker.report(row(1, "train", images_per_s=speed / 2), row(2, "train", images_per_s=speed))
        if speed == 30.0:
            await worker.report(row(2).model_copy(update={"eval_images_per_s": 90.0}))
        await worker.finish()
    await create(database, model="vgg")
    async with database.read() as session:
        found = await results.speeds(session, ["vgg"])
        assert found == [Speed("vgg", 4, "cpu", 30.0, 90.0), Speed("vgg", 2, "cpu", 10.0, None)]
        assert len(await results.speeds(session, ["vgg", "resnet20"], limit=2)) == 2
        assert await results.speeds(session, ["resnet56"]) == []
