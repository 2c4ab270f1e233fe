"""A job names a checkpoint to begin with, which exists, is of its model, and is kept until the job has ended."""

from typing import Any

import pytest

from service.errors import Conflict, InvalidFields
from service.store import Database, checkpoints, jobs
from tests.unit.service.store import test_experiments
from tests.unit.service.store.acting import FINAL, Worker, create

pytestmark = pytest.mark.anyio


async def checkpoint(database: Database, **given: Any) -> tuple[str, str]:
    """Return the ids of a succeeded job and of its checkpoint."""
    await create(database, **given)
    worker = await Worker.run(database)
    taken = await worker.checkpoint(3, test_error=0.5)
    await worker.finish()
    return worker.job, taken


async def test_the_checkpoint_is_kept_until_the_job_has_ended(database: Database) -> None:
    first, taken = await checkpoint(database)
    job_id = await create(database, init_from=taken)
    async with database.write() as session:
        job = await jobs.get(session, job_id)
        assert (job.from_checkpoint, job.extends, job.spec["init_from"]) == (taken, None, taken)
        assert await checkpoints.needed(session, first) == {taken}
        with pytest.raises(Conflict, match=f"Job {job_id} has not ended and starts from the checkpoint {taken}"):
            await jobs.delete(session, first)
    worker = await Worker.run(database)
    assert worker.job == job_id
    await worker.fail(FINAL)
    async with database.write() as session:
        assert await checkpoints.needed(session, first) == set()
        retried = await jobs.retry(session, job_id)
        assert retried.from_checkpoint == taken
        assert await checkpoints.needed(session, first) == {taken}
        await jobs.cancel(session, retried.id)
        await jobs.delete(session, first)
    async with database.write() as session:
        with pytest.raises(Conflict, match=f"cannot be retried: the checkpoint {taken} no longer exists"):
            await jobs.retry(session, retried.id)


async def test_a_checkpoint_that_does_not_exist_is_refused(database: Database) -> None:
    with pytest.raises(InvalidFields, match=r"init_from is checkpoint_x, but there is no such checkpoint: give the id"):
        await create(database, init_from="checkpoint_x")


async def test_a_checkpoint_of_another_model_is_refused(database: Database) -> None:
    _, taken = await checkpoint(database)
    with pytest.raises(InvalidFields) as refusal:
        await create(database, init_from=taken, model="vgg")
    (problem,) = refusal.value.fields
    assert problem.path == ("init_from",)
    assert problem.detail == (
        f"init_from is {taken}, a checkpoint of resnet20, but model is vgg: give one of vgg, or model resnet20"
    )


async def test_the_jobs_of_an_experiment_may_begin_with_it_too(database: Database) -> None:
    first, taken = await checkpoint(database)
    experiment = await test_experiments.create(database, base={"init_from": taken})
    assert {job.from_checkpoint for job in await test_experiments.jobs_of(database, experiment)} == {taken}
    async with database.read() as session:
        assert await checkpoints.needed(session, first) == {taken}
    with pytest.raises(InvalidFields, match="there is no such checkpoint"):
        await test_experiments.create(database, base={"init_from": "checkpoint_x"})
