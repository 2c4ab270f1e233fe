"""Sequential seeds are added once to the cells that need them, and only at planned analyses."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.dispatcher import seeding
from service.dispatcher.leadership import Leadership, LeadershipLost
from service.errors import FieldError, InvalidFields
from service.experiments.request import ExperimentRequest, expand
from service.jobs import Status
from service.store import Database, experiments, jobs
from service.store.tables import Job
from tests.unit.service.store.acting import FINAL, Worker, row

pytestmark = pytest.mark.anyio

GRID: dict[str, Any] = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [2, 32]}
NOISE = (0.0, 0.011, -0.012, 0.009, -0.004, 0.013, -0.010, 0.007, 0.002, -0.003)
"""The deviation of each seed in the cells of group normalization, besides the effect."""

Error = Callable[[str, int, int], float]


def resolved_at_2(norm: str, batch_size: int, seed: int) -> float:
    """Batch normalization is far worse at batch size 2, and equal at batch size 32."""
    worse = 0.5 if (norm, batch_size) == ("batch", 2) else 0.0
    return 0.2 + worse + (NOISE[seed] if norm == "group" else 0.0)


async def create(database: Database, **fields: Any) -> str:
    request = ExperimentRequest.model_validate({"grid": GRID, "seeds": {"min": 3, "max": 10}} | fields).resolved()
    async with database.write() as session:
        return (await experiments.create(session, request, expand(request))).id


async def run_all(database: Database, error: Error) -> None:
    """Run all queued jobs to their end."""
    while True:
        async with database.read() as session:
            if await session.scalar(select(Job.id).where(Job.status == Status.QUEUED).limit(1)) is None:
                return
        worker = await Worker.run(database)
        async with database.read() as session:
            job = await jobs.get(session, worker.job)
        await worker.report(row(3, test_error=error(job.normalization, job.batch_size, job.seed)))
        await worker.finish()


async def decide(database: Database, experiment_id: str) -> int:
    async with database.write() as session:
        return len(await seeding.decide(session, experiment_id))


async def seeds(database: Database, experiment_id: str) -> dict[tuple[str, int], list[int]]:
    """Return the seeds of each cell."""
    given: dict[tuple[str, int], list[int]] = {}
    async with database.read() as session:
        query = select(Job).where(Job.experiment_id == experiment_id).order_by(Job.seed)
        for job in await session.scalars(query):
            given.setdefault((job.normalization, job.batch_size), []).append(job.seed)
    return given


async def deciding(database: Database, experiment_id: str) -> bool:
    async with database.read() as session:
        return (await experiments.get(session, experiment_id)).deciding


async def due(database: Database) -> list[str]:
    async with database.read() as session:
        return list(await experiments.due_for_interim_analysis(session))


async def test_only_undecided_cells_get_more_seeds_until_all_are_spent(database: Database) -> None:
    id_ = await create(database)
    assert set(map(tuple, (await seeds(database, id_)).values())) == {(0, 1, 2)}
    spent = []
    while await deciding(database, id_):
        await run_all(database, resolved_at_2)
        assert await due(database) == [id_]
        await decide(database, id_)
        spent.append({cell: len(given) for cell, given in (await seeds(database, id_)).items()})
    assert spent[-1] == {("batch", 2): 3, ("group", 2): 3, ("batch", 32): 10, ("group", 32): 10}
    assert all(later >= earlier for earlier, later in zip(spent[0].values(), spent[1].values(), strict=True))
    assert await due(database) == []
    assert (await seeds(database, id_))["batch", 32] == list(range(10))


async def test_where_all_is_decided_nothing_more_is_spent(database: Database) -> None:
    id_ = await create(database)
    await run_all(database, lambda norm, _size, seed: 0.7 if norm == "batch" else 0.2 + NOISE[seed])
    assert await decide(database, id_) == 0
    assert not await deciding(database, id_)
    assert Counter(map(len, (await seeds(database, id_)).values())) == {3: 4}


async def test_a_decision_is_made_once_however_often_it_is_asked(database: Database) -> None:
    id_ = await create(database)
    await run_all(database, resolved_at_2)
    added = await asyncio.gather(*(decide(database, id_) for _ in range(4)))
    assert sorted(added)[:3] == [0, 0, 0]
    assert sum(added) > 0
    given = await seeds(database, id_)
    assert all(len(set(found)) == len(found) for found in given.values())


async def test_nothing_is_decided_while_a_job_has_not_ended(database: Database) -> None:
    id_ = await create(database)
    worker = await Worker.run(database)
    await run_all(database, resolved_at_2)
    assert await due(database) == []
    assert await decide(database, id_) == 0
    assert await deciding(database, id_)
    await worker.finish()
    assert await due(database) == [id_]


async def test_a_failed_job_holds_nothing_up(database: Database) -> None:
    id_ = await create(database)
    await (await Worker.run(database)).fail(FINAL)
    await run_all(database, resolved_at_2)
    assert await decide(database, id_) > 0


async def test_nothing_is_decided_for_one_that_is_paused_or_cancelled(database: Database) -> None:
    id_ = await create(database)
    await run_all(database, resolved_at_2)
    async with database.write() as session:
        await experiments.pause(session, id_)
    assert await due(database) == []
    assert await decide(database, id_) == 0
    async with database.write() as session:
        await experiments.resume(session, id_)
    assert await due(database) == [id_]
    async with database.write() as session:
        await experiments.cancel(session, id_)
    assert await due(database) == []
    assert await decide(database, id_) == 0


async def test_experiments_with_fixed_seeds_are_left_alone(database: Database) -> None:
    id_ = await create(database, seeds=None)
    await run_all(database, resolved_at_2)
    assert await due(database) == []
    assert await decide(database, id_) == 0


class Holder(Leadership):
    """A leadership that is lost after a number of writes."""

    def __init__(self, database: Database, writes: int) -> None:
        self.database, self.writes = database, writes

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        async with self.database.write() as session:
            self.writes -= 1
            if self.writes < 0:
                raise LeadershipLost("another dispatcher took over")
            yield session


async def test_it_goes_on_until_another_dispatcher_takes_over(database: Database) -> None:
    first, second = await create(database), await create(database)
    await run_all(database, resolved_at_2)
    with pytest.raises(LeadershipLost):
        await seeding.keep(database, Holder(database, writes=1), asyncio.Event(), interval_s=0)
    decided = [id_ for id_ in (first, second) if len((await seeds(database, id_))["batch", 32]) > 3]
    assert len(decided) == 1, "the second one was refused, and nothing of it was written"


async def test_an_analysis_that_is_due_with_the_end_of_an_attempt_is_made_at_once(database: Database) -> None:
    await create(database)
    await run_all(database, resolved_at_2)
    ended = asyncio.Event()
    ended.set()
    with pytest.raises(LeadershipLost):
        await seeding.keep(database, Holder(database, writes=0), ended, interval_s=1000)


async def test_an_unavailable_database_is_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    id_ = await create(database)
    await run_all(database, resolved_at_2)
    found = experiments.due_for_interim_analysis
    answers = iter([OSError("away")])

    async def sometimes(session: Any) -> Any:
        for error in answers:
            raise error
        return await found(session)

    monkeypatch.setattr(experiments, "due_for_interim_analysis", sometimes)
    with caplog.at_level("WARNING"), pytest.raises(LeadershipLost):
        await seeding.keep(database, Holder(database, writes=0), asyncio.Event(), interval_s=0)
    assert "no experiment was continued, will try again: away" in caplog.text
    assert await deciding(database, id_)


async def test_an_experiment_that_cannot_be_decided_is_no_reason_to_stop_the_others(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = await create(database), await create(database)
    await run_all(database, resolved_at_2)
    asked: list[str] = []

    async def sometimes(_session: Any, experiment_id: str) -> list[str]:
        asked.append(experiment_id)
        if asked.count(whole) == 2:
            raise LeadershipLost("that is enough")
        if experiment_id == broken:
            raise InvalidFields([FieldError(("grid",), "of another release")])
        return []

    monkeypatch.setattr(seeding, "decide", sometimes)
    with pytest.raises(LeadershipLost):
        await seeding.keep(database, Holder(database, writes=9), asyncio.Event(), interval_s=0)
    assert asked == [broken, whole, whole], "the broken one is not asked again and again"
    assert "experiment not continued" in caplog.text
    assert "of another release" in caplog.text


async def test_an_experiment_whose_jobs_are_all_gone_wants_no_more(database: Database) -> None:
    id_ = await create(database)
    async with database.write() as session:
        for job_id in (await session.scalars(select(Job.id))).all():
            await jobs.cancel(session, job_id)
            await jobs.delete(session, job_id)
    assert await due(database) == [id_]
    assert await decide(database, id_) == 0
    assert not await deciding(database, id_)


async def test_cancelled_jobs_count_as_ended_without_a_value(database: Database) -> None:
    id_ = await create(database)
    async with database.write() as session:
        for job_id in (await session.scalars(select(Job.id).where(Job.batch_size == 32))).all():
            await jobs.cancel(session, job_id)
    await run_all(database, resolved_at_2)
    assert await decide(database, id_) == 0
    assert not await deciding(database, id_), "at 2 images all is decided, and at 32 there is nothing to compare"
