"""The tuned jobs of a row or a cell are queued once, when its search has ended, whatever happens in between."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from service.dispatcher import seeding, tuning
from service.dispatcher.leadership import LeadershipLost
from service.experiments.request import ExperimentRequest
from service.experiments.search import first_jobs
from service.jobs import Status
from service.store import Database, experiments, jobs
from service.store.tables import Job
from tests.unit.service.dispatcher.test_seeding import Holder, decide, deciding
from tests.unit.service.store.acting import FINAL, Worker, row

pytestmark = pytest.mark.anyio

GRID: dict[str, Any] = {
    "normalization": [{"type": "batch"}, {"type": "group"}],
    "batch_size": [2],
    "seed": [0, 1],
}
BEST = {"batch": 0.1, "group": 1.0}
Error = Callable[[Job], float | None]


def request(**tune: Any) -> ExperimentRequest:
    given = {"over": {"optimizer.learning_rate": [0.01, 0.1, 1.0]}, "seeds": 1, "compare": False} | tune
    return ExperimentRequest.model_validate({"grid": GRID, "tune": given}).resolved()


async def create(database: Database, **tune: Any) -> str:
    wanted = request(**tune)
    async with database.write() as session:
        return (await experiments.create(session, wanted, first_jobs(wanted))).id


def rate(job: Job) -> float:
    learning_rate: float = job.spec["optimizer"]["learning_rate"]
    return learning_rate


def near_the_best(job: Job) -> float | None:
    return 0.2 + 0.1 * abs(rate(job) - BEST[job.normalization])


async def run_next(database: Database, error: Error = near_the_best) -> bool:
    """Run the next job to its end; one without an error fails. Returns whether there was one."""
    async with database.read() as session:
        if await session.scalar(select(Job.id).where(Job.status == Status.QUEUED).limit(1)) is None:
            return False
    worker = await Worker.run(database)
    async with database.read() as session:
        value = error(await jobs.get(session, worker.job))
    if value is None:
        await worker.fail(FINAL)
    else:
        await worker.report(row(3, holdout_error=value))
        await worker.finish()
    return True


async def run_all(database: Database, error: Error = near_the_best) -> None:
    while await run_next(database, error):
        pass


async def tuned(database: Database, experiment_id: str) -> dict[str, Counter[float]]:
    """Return the learning rates of the tuned jobs by normalization."""
    found: dict[str, Counter[float]] = {}
    async with database.read() as session:
        for job in await session.scalars(select(Job).where(Job.experiment_id == experiment_id)):
            if job.seed in GRID["seed"] and not job.spec["dataset"]["holdout"]:
                found.setdefault(job.normalization, Counter())[rate(job)] += 1
    return found


async def due(database: Database) -> list[str]:
    async with database.read() as session:
        return await tuning.due(session)


async def test_a_row_trains_as_soon_as_its_own_search_has_ended(database: Database) -> None:
    id_ = await create(database)
    for _ in range(2):
        await run_next(database)
    assert await due(database) == []
    await run_next(database)
    assert await due(database) == [id_], "the three values of batch have ended"
    assert await decide(database, id_) == 2
    assert await tuned(database, id_) == {"batch": Counter({0.1: 2})}
    assert await due(database) == []
    assert await deciding(database, id_)
    await run_all(database)
    assert await decide(database, id_) == 2
    assert await tuned(database, id_) == {"batch": Counter({0.1: 2}), "group": Counter({1.0: 2})}
    assert not await deciding(database, id_)


async def test_a_decision_is_made_once_however_often_it_is_asked(database: Database) -> None:
    id_ = await create(database)
    await run_all(database)
    added = await asyncio.gather(*(decide(database, id_) for _ in range(4)))
    assert sorted(added) == [0, 0, 0, 4]


async def test_nothing_is_decided_for_one_that_is_paused_or_cancelled(database: Database) -> None:
    id_ = await create(database)
    await run_all(database)
    async with database.write() as session:
        await experiments.pause(session, id_)
    assert (await due(database), await decide(database, id_)) == ([], 0)
    async with database.write() as session:
        await experiments.resume(session, id_)
    assert await due(database) == [id_]
    async with database.write() as session:
        await experiments.cancel(session, id_)
    assert (await due(database), await decide(database, id_)) == ([], 0)


async def test_a_row_whose_search_diverged_is_not_trained_and_holds_nothing_up(database: Database) -> None:
    id_ = await create(database)
    await run_all(database, lambda job: None if job.normalization == "batch" else 0.5)
    assert await decide(database, id_) == 2
    assert await tuned(database, id_) == {"group": Counter({0.01: 2})}
    assert not await deciding(database, id_)


async def test_if_every_search_diverged_the_experiment_ends(database: Database) -> None:
    id_ = await create(database)
    await run_all(database, lambda _: None)
    assert await due(database) == [id_]
    assert await decide(database, id_) == 0
    assert not await deciding(database, id_)


async def test_rows_without_anything_to_tune_are_trained_too(database: Database) -> None:
    id_ = await create(database, over={"normalization.momentum": [0.2, 0.3]})
    assert await due(database) == [id_]
    assert await decide(database, id_) == 2
    assert await tuned(database, id_) == {"group": Counter({0.1: 2})}


async def test_untuned_jobs_are_queued_with_the_search_and_hold_up_no_decision(database: Database) -> None:
    id_ = await create(database, compare=True)
    for _ in range(6):
        await run_next(database)
    assert await due(database) == [id_]
    assert await decide(database, id_) == 4
    assert not await deciding(database, id_)


async def test_seeds_that_are_added_get_the_values_that_won(database: Database) -> None:
    id_ = await create(database)
    await run_all(database)
    await decide(database, id_)
    async with database.write() as session:
        experiment = await experiments.get(session, id_, lock=True)
        longer = experiments.request_of(experiment).extended({"seed": [2]})
        assert await experiments.extend(session, experiment, longer, first_jobs(longer)) == []
    assert await deciding(database, id_)
    assert await decide(database, id_) == 2
    async with database.read() as session:
        added = (await session.scalars(select(Job).where(Job.seed == 2))).all()
    assert {(job.normalization, rate(job)) for job in added} == {("batch", 0.1), ("group", 1.0)}


async def test_the_dispatcher_decides_until_another_one_takes_over(database: Database) -> None:
    first, second = await create(database), await create(database)
    await run_all(database)
    with pytest.raises(LeadershipLost):
        await seeding.keep(database, Holder(database, writes=1), asyncio.Event(), interval_s=0)
    found = [await tuned(database, id_) for id_ in (first, second)]
    assert [len(one) for one in found] == [2, 0], "the second one was refused, and nothing of it was written"
