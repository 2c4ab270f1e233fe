"""The order of the queue is that in which the dispatcher claims jobs."""

import random

import pytest

from service.store import Database, attempts, jobs, queue
from service.store.attempts import FreeWorker, NotEnoughWorkers
from tests.unit.service.store.acting import create, request

pytestmark = pytest.mark.anyio


async def claim(database: Database) -> str:
    workers = [FreeWorker(f"worker-{n}", "node") for n in range(3)]
    async with database.write() as session:
        claimed = await attempts.claim(session, workers)
        assert claimed is not None
        assert not isinstance(claimed, NotEnoughWorkers)
        return claimed[0].id


@pytest.mark.parametrize("seed", range(5))
async def test_jobs_start_in_the_order_that_was_told(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(12):
        fields = {"priority": chance.choice([0, 0, 3]), "num_workers": chance.choice([1, 1, 2, 3]), "batch_size": 6}
        experiment = chance.choice([None, "experiment_1", "experiment_2"])
        if experiment is None:
            await create(database, **fields)
            continue
        async with database.write() as session:
            await jobs.create_all(session, [(f"cell {chance.random()}", request(**fields))], experiment)
    # Some jobs have started already, so that the experiments hold workers.
    for _ in range(chance.randrange(4)):
        await claim(database)
    async with database.read() as session:
        told = [job.id for job in (await queue.read(session)).waiting]
    assert [await claim(database) for _ in told] == told


async def test_an_empty_queue_has_no_order(database: Database) -> None:
    async with database.read() as session:
        found = await queue.read(session)
    assert (found.waiting, found.active) == ([], [])
