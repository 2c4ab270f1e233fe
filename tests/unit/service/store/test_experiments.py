"""An experiment and its jobs are created, controlled, extended and deleted together."""

from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.event import listen
from sqlalchemy.exc import IntegrityError

from service.errors import Conflict, NotFound, Unprocessable
from service.experiments.request import ExperimentRequest, expand
from service.jobs import Status
from service.store import Database, attempts, events, experiments, jobs
from service.store.tables import Event, Experiment, Idempotency, Job, JobLabel
from tests.unit.service.store.acting import FINAL, Worker, history

pytestmark = pytest.mark.anyio

GRID: dict[str, Any] = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [2, 4]}


def request(**fields: Any) -> ExperimentRequest:
    return ExperimentRequest.model_validate({"grid": GRID, "name": "two by two"} | fields).resolved()


async def create(database: Database, **fields: Any) -> str:
    async with database.write() as session:
        given = request(**fields)
        return (await experiments.create(session, given, expand(given))).id


async def jobs_of(database: Database, experiment_id: str) -> list[Job]:
    async with database.read() as session:
        query = select(Job).where(Job.experiment_id == experiment_id).order_by(Job.queued_at)
        return list(await session.scalars(query))


async def statuses(database: Database, experiment_id: str) -> list[Status]:
    return [job.status for job in await jobs_of(database, experiment_id)]


async def do(database: Database, verb: Any, *arguments: Any) -> Any:
    async with database.write() as session:
        return await verb(session, *arguments)


def count(found: Iterable[Status]) -> dict[Status, int]:
    found = list(found)
    return {status: found.count(status) for status in found}


async def test_all_jobs_are_queued_in_the_order_of_the_grid(database: Database) -> None:
    id_ = await create(database, grid=GRID | {"seed": [0, 1]}, base={"labels": {"study": "paper"}}, priority=3)
    found = await jobs_of(database, id_)
    assert [(job.seed, job.normalization, job.batch_size) for job in found] == [
        (seed, norm, size) for seed in (0, 1) for norm in ("batch", "group") for size in (2, 4)
    ]
    assert {(job.status, job.priority, job.attempts) for job in found} == {(Status.QUEUED, 3, 0)}
    assert len({job.cell for job in found}) == 4
    for job in found:
        assert await history(database, job.id) == [Status.QUEUED]
    async with database.read() as session:
        assert await session.scalar(select(func.count()).select_from(JobLabel)) == 8
        stored = experiments.request_of(await experiments.get(session, id_))
        assert stored == request(grid=GRID | {"seed": [0, 1]}, base={"labels": {"study": "paper"}}, priority=3)
        assert await experiments.counts(session, [id_]) == {id_: {Status.QUEUED: 8}}
    worker = await Worker.claim(database)
    assert worker.job == found[0].id


async def test_a_thousand_jobs_take_as_many_statements_as_four(database: Database) -> None:
    statements: list[str] = []
    listen(database.engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    taken = []
    for seeds in (1, 250):
        given = request(grid=GRID | {"seed": list(range(seeds))})
        statements.clear()
        async with database.write() as session:
            id_ = (await experiments.create(session, given, expand(given))).id
        taken.append(len(statements))
    # A large insert is split into parts that the database accepts.
    assert taken[1] <= taken[0] + 10
    async with database.read() as session:
        assert await experiments.counts(session, [id_]) == {id_: {Status.QUEUED: 1000}}
        assert await session.scalar(select(func.count()).select_from(Event)) == 1000 + 4


async def test_either_all_jobs_are_made_or_none(database: Database) -> None:
    given = request()
    planned = expand(given)
    with pytest.raises(IntegrityError):
        await do(database, experiments.create, given, [*planned, planned[0]])
    async with database.read() as session:
        assert await session.scalar(select(func.count()).select_from(Experiment)) == 0
        assert await session.scalar(select(func.count()).select_from(Job)) == 0
        assert await events.last_id(session) == 0


async def test_what_does_not_exist_is_not_found(database: Database) -> None:
    for verb in (experiments.get, experiments.cancel, experiments.pause, experiments.resume, experiments.delete):
        with pytest.raises(NotFound, match="There is no experiment experiment_x"):
            await do(database, verb, "experiment_x")


async def test_pages_go_through_all_newest_first(database: Database) -> None:
    ids = [await create(database, name=name) for name in ("one", "two", "100% three")]
    async with database.read() as session:
        first, cursor = await experiments.page(session, limit=2)
        rest, end = await experiments.page(session, limit=2, cursor=cursor)
        assert [experiment.id for experiment in [*first, *rest]] == ids[::-1]
        assert end is None
        found, _ = await experiments.page(session, search="0% T")
        assert [experiment.id for experiment in found] == [ids[2]]
        with pytest.raises(Unprocessable):
            await experiments.page(session, cursor="x")


class TestSteering:
    async def test_cancel_ends_what_waits_and_asks_what_runs(self, database: Database) -> None:
        id_ = await create(database)
        done, running = await Worker.run(database), await Worker.run(database)
        await done.finish()
        for _ in range(2):
            await do(database, experiments.cancel, id_)
            assert count(await statuses(database, id_)) == {
                Status.SUCCEEDED: 1,
                Status.CANCELLING: 1,
                Status.CANCELLED: 2,
            }
        await running.finish("cancelled")
        assert (await history(database, running.job))[-2:] == [Status.CANCELLING, Status.CANCELLED]
        assert all(job.finished_at for job in await jobs_of(database, id_))
        for verb in (experiments.pause, experiments.resume):
            with pytest.raises(Conflict, match="has been cancelled"):
                await do(database, verb, id_)

    async def test_pause_and_resume_reach_every_job(self, database: Database) -> None:
        id_ = await create(database)
        worker = await Worker.run(database)
        for _ in range(2):
            await do(database, experiments.pause, id_)
            assert count(await statuses(database, id_)) == {Status.PAUSING: 1, Status.PAUSED: 3}
        async with database.write() as session:
            assert await attempts.claim(session, [attempts.FreeWorker("worker-2", "node-1")]) is None
        await worker.finish("paused")
        for _ in range(2):
            await do(database, experiments.resume, id_)
            assert set(await statuses(database, id_)) == {Status.QUEUED}

    async def test_a_failed_job_does_not_stop_the_others(self, database: Database) -> None:
        id_ = await create(database)
        await (await Worker.run(database)).fail(FINAL)
        assert count(await statuses(database, id_)) == {Status.FAILED: 1, Status.QUEUED: 3}
        await do(database, experiments.pause, id_)
        assert count(await statuses(database, id_)) == {Status.FAILED: 1, Status.PAUSED: 3}

    async def test_what_has_ended_cannot_be_stopped(self, database: Database) -> None:
        id_ = await create(database, grid={"normalization": [{"type": "batch"}], "batch_size": [2]})
        await (await Worker.run(database)).finish()
        for verb in (experiments.cancel, experiments.pause):
            with pytest.raises(Conflict, match="has ended"):
                await do(database, verb, id_)

    async def test_other_experiments_go_on(self, database: Database) -> None:
        stopped, other = await create(database), await create(database)
        await do(database, experiments.cancel, stopped)
        assert set(await statuses(database, other)) == {Status.QUEUED}

    async def test_priority_is_that_of_every_job(self, database: Database) -> None:
        await create(database)
        id_ = await create(database)
        async with database.write() as session:
            experiment = await experiments.get(session, id_, lock=True)
            await experiments.prioritize(session, experiment, 7)
            await experiments.rename(session, experiment, "first of all")
        assert (await Worker.claim(database)).job in {job.id for job in await jobs_of(database, id_)}
        async with database.read() as session:
            experiment = await experiments.get(session, id_)
            assert (experiment.name, experiments.request_of(experiment).priority) == ("first of all", 7)


class TestExtending:
    async def extend(self, database: Database, id_: str, **grid: list[Any]) -> list[str]:
        async with database.write() as session:
            experiment = await experiments.get(session, id_, lock=True)
            longer = experiments.request_of(experiment).extended(grid)
            return list(await experiments.extend(session, experiment, longer, expand(longer)))

    async def test_adds_what_is_new_and_nothing_twice(self, database: Database) -> None:
        id_ = await create(database)
        assert len(await self.extend(database, id_, seed=[0, 1])) == 4
        assert await self.extend(database, id_, seed=[1]) == []
        assert len(await self.extend(database, id_, batch_size=[8])) == 2 * 2
        found = await jobs_of(database, id_)
        assert len({(job.normalization, job.batch_size, job.seed) for job in found}) == len(found) == 12

    async def test_a_retry_is_no_new_seed(self, database: Database) -> None:
        id_ = await create(database)
        failed = await Worker.run(database)
        await failed.fail(FINAL)
        await do(database, jobs.retry, failed.job)
        assert await self.extend(database, id_, seed=[0]) == []
        async with database.read() as session:
            counted = await experiments.counts(session, [id_])
        assert counted == {id_: {Status.QUEUED: 4}}, "the failed one counts as its retry"

    async def test_what_is_added_to_a_paused_experiment_waits_with_it(self, database: Database) -> None:
        id_ = await create(database)
        await do(database, experiments.pause, id_)
        await self.extend(database, id_, seed=[1])
        assert count(await statuses(database, id_)) == {Status.PAUSED: 8}
        await do(database, experiments.resume, id_)
        assert count(await statuses(database, id_)) == {Status.QUEUED: 8}

    async def test_nothing_is_added_to_a_cancelled_one(self, database: Database) -> None:
        id_ = await create(database)
        await do(database, experiments.cancel, id_)
        with pytest.raises(Conflict, match="nothing can be added"):
            await self.extend(database, id_, seed=[1])


async def test_nothing_remains_of_a_deleted_experiment_and_others_keep_theirs(database: Database) -> None:
    id_, other = await create(database), await create(database)
    with pytest.raises(Conflict, match="has 4 jobs that have not ended: cancel it first"):
        await do(database, experiments.delete, id_)
    await do(database, experiments.cancel, id_)
    async with database.write() as session:
        await jobs.remember_answer(session, "ann", "key", "body", id_)
        gone = await experiments.delete(session, id_)
    assert len(gone) == 4
    async with database.read() as session:
        assert (await session.scalars(select(Experiment.id))).all() == [other]
        assert await session.scalar(select(func.count()).select_from(Job)) == 4
        assert await session.scalar(select(func.count()).select_from(Event).where(Event.job_id.in_(gone))) == 0
        assert await session.scalar(select(func.count()).select_from(Idempotency)) == 0
