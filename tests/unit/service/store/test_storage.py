"""What checkpoints take is summed by experiment and by job, largest first."""

import pytest

from service.experiments.request import ExperimentRequest, expand
from service.store import Database, experiments, storage
from service.store.storage import Taken
from tests.unit.service.store.acting import Worker
from tests.unit.service.store.acting import create as create_job

pytestmark = pytest.mark.anyio

SIZE = 111
"""The size of a checkpoint of `acting`, in bytes."""


async def create(database: Database) -> tuple[str, list[str], str]:
    """Create an experiment of two jobs with two checkpoints and one, and a job without an experiment with one."""
    base = {"normalization": {"type": "batch"}, "batch_size": 2}
    request = ExperimentRequest.model_validate({"grid": {"seed": [0, 1]}, "base": base}).resolved()
    async with database.write() as session:
        id_ = (await experiments.create(session, request, expand(request))).id
    of_it = []
    for steps in ((3, 6), (3,)):
        worker = await Worker.run(database)
        for step in steps:
            await worker.checkpoint(step)
        await worker.finish()
        of_it.append(worker.job)
    alone = await create_job(database)
    worker = await Worker.run(database)
    await worker.checkpoint(3)
    return id_, of_it, alone


async def test_checkpoints_are_summed_by_experiment_and_by_job(database: Database) -> None:
    id_, (larger, smaller), alone = await create(database)
    async with database.read() as session:
        assert await storage.total(session) == Taken(jobs=3, checkpoints=4, size=4 * SIZE)
        of_experiments = await storage.by_experiment(session, limit=10)
        assert [(one and one.id, taken) for one, taken in of_experiments] == [
            (id_, Taken(2, 3, 3 * SIZE)),
            (None, Taken(1, 1, SIZE)),
        ]
        of_jobs = await storage.by_job(session, limit=10)
        assert [(job.id, taken) for job, taken in of_jobs] == [
            (larger, Taken(1, 2, 2 * SIZE)),
            (alone, Taken(1, 1, SIZE)),
            (smaller, Taken(1, 1, SIZE)),
        ]
        assert len(await storage.by_job(session, limit=1)) == 1
        assert {job.id for job, _ in await storage.by_job(session, 10, id_)} == {larger, smaller}


async def test_what_is_deleted_takes_nothing(database: Database) -> None:
    id_, _, alone = await create(database)
    async with database.write() as session:
        await experiments.delete(session, id_)
    async with database.read() as session:
        assert await storage.total(session) == Taken(1, 1, SIZE)
        assert [(one, taken) for one, taken in await storage.by_experiment(session, 10)] == [(None, Taken(1, 1, SIZE))]
        assert [job.id for job, _ in await storage.by_job(session, 10)] == [alone]


async def test_without_checkpoints_nothing_is_taken(database: Database) -> None:
    async with database.read() as session:
        assert await storage.total(session) == Taken(0, 0, 0)
        assert await storage.by_experiment(session, 10) == []
        assert await storage.by_job(session, 10) == []
