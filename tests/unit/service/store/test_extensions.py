"""A succeeded job is continued by a new one, which has its metrics and needs its last checkpoint."""

from typing import Any

import pytest

from service.errors import Conflict, FieldError, InvalidFields
from service.jobs import Status
from service.store import Database, checkpoints, experiments, extensions, jobs, metrics
from service.store.tables import Job
from tests.unit.service.store import test_experiments
from tests.unit.service.store.acting import FINAL, Worker, create, row

pytestmark = pytest.mark.anyio

CONSTANT = {"schedule": {"type": "constant", "warmup_epochs": 1}}


async def train(database: Database) -> str:
    """Train the next job for 2 epochs of 3 steps, with an evaluation and a checkpoint of each; return its id."""
    worker = await Worker.run(database)
    measured = row(2, "train", train_loss=2.0), row(3, test_error=0.25), row(3, "telemetry", train_mode_error=0.5)
    await worker.report(*measured, row(4, "train", epoch=2, train_loss=9.0))
    await worker.checkpoint(3, test_error=0.25)
    await worker.lose()
    again = await Worker.run(database, resumed_from_step=3)
    await again.report(row(6, epoch=2, test_error=0.5), row(6, "telemetry", epoch=2, train_mode_error=0.25))
    await again.checkpoint(6, 2, test_error=0.5)
    await again.finish()
    return again.job


async def trained(database: Database, **given: Any) -> str:
    """Return the id of a job that has trained 2 epochs."""
    await create(database, **{"epochs": 2, **CONSTANT, **given})
    return await train(database)


async def extend(database: Database, job_id: str, epochs: int) -> Job:
    async with database.write() as session:
        return await extensions.extend(session, job_id, epochs)


async def rows(database: Database, job_id: str) -> list[Any]:
    async with database.read() as session:
        found = await metrics.rows(session, job_id)
        return [(one.kind, one.epoch, one.step, one.time, one.values, one.superseded) for one in found]


async def test_the_new_job_has_the_spec_with_more_epochs_the_metrics_and_the_checkpoint(database: Database) -> None:
    first = await trained(database, name="long", labels={"a": "b"}, priority=3, max_retries=5)
    new = await extend(database, first, 5)

    async with database.read() as session:
        old = await jobs.get(session, first)
        latest = await checkpoints.pick(session, first, "latest")
        assert new.spec == old.spec | {"epochs": 5}
        assert (new.status, new.extends, new.from_checkpoint) == (Status.QUEUED, first, latest.id)
        assert (new.name, new.priority, new.max_retries, new.precision) == ("long", 3, 5, "float32")
        assert (await jobs.labels(session, [new.id]))[new.id] == {"a": "b"}
        assert new.summary == old.summary
        assert new.summary["test_error"]["last_5"] == [0.25, 0.5]
    assert await rows(database, new.id) == await rows(database, first)
    assert len(await rows(database, first)) == 5, "without the row that was superseded"


async def test_a_repeat_is_the_same_job_and_other_epochs_are_another(database: Database) -> None:
    first = await trained(database)
    new = await extend(database, first, 5)

    assert (await extend(database, first, 5)).id == new.id
    assert (await extend(database, first, 6)).id != new.id
    async with database.write() as session:
        await jobs.cancel(session, new.id)
    assert (await extend(database, first, 5)).id != new.id, "one that was cancelled is not the answer"


async def test_it_continues_from_the_rows_that_it_was_given_and_can_be_extended(database: Database) -> None:
    first = await trained(database)
    new = await extend(database, first, 3)
    worker = await Worker.run(database, resumed_from_step=6)
    assert worker.job == new.id
    await worker.report(row(9, epoch=3, test_error=0.125))
    await worker.checkpoint(9, 3, test_error=0.125)
    await worker.finish()

    assert [one[2] for one in await rows(database, new.id)] == [2, 3, 3, 6, 6, 9]
    async with database.read() as session:
        summary = (await jobs.get(session, new.id)).summary["test_error"]
        assert (summary["best"], summary["last_5"]) == (0.125, [0.25, 0.5, 0.125])
    further = await extend(database, new.id, 4)
    assert further.extends == new.id
    assert await rows(database, further.id) == await rows(database, new.id)


async def test_telemetry_that_was_measured_only_because_the_training_ended_is_left_out(database: Database) -> None:
    first = await trained(database, telemetry={"every_epochs": 3})
    new = await extend(database, first, 5)

    assert [one[:2] for one in await rows(database, new.id)] == [("train", 1), ("eval", 1), ("eval", 2)]


@pytest.mark.parametrize("type", ["multistep", "cosine"])
async def test_a_schedule_that_is_fixed_to_the_length_is_refused_with_the_reason(database: Database, type: str) -> None:
    first = await trained(database, schedule={"type": type})
    with pytest.raises(Conflict, match=f"its schedule is {type}, and its .* the whole training. Submit a job with"):
        await extend(database, first, 5)


@pytest.mark.parametrize("epochs", [1, 2])
async def test_epochs_that_are_not_more_are_refused(database: Database, epochs: int) -> None:
    first = await trained(database)
    with pytest.raises(InvalidFields) as refusal:
        await extend(database, first, epochs)
    detail = f"epochs is {epochs}, but job {first} has trained 2: give more."
    assert refusal.value.fields == [FieldError(("epochs",), detail)]


async def test_a_job_without_a_checkpoint_of_its_last_epoch_is_refused(database: Database) -> None:
    first = await trained(database)
    async with database.write() as session:
        latest = await checkpoints.pick(session, first, "latest")
        await checkpoints.remove(session, [latest.id])
    with pytest.raises(Conflict, match="it has no checkpoint of its last epoch, as imported jobs"):
        await extend(database, first, 5)


async def test_the_first_job_stays_while_the_new_one_has_not_ended(database: Database) -> None:
    first = await trained(database)
    new = await extend(database, first, 5)
    refused = f"Job {new.id} has not ended and starts from the checkpoint {new.from_checkpoint}: cancel it first"
    async with database.write() as session:
        with pytest.raises(Conflict, match=refused):
            await jobs.delete(session, first)
    worker = await Worker.run(database, resumed_from_step=6)
    await worker.fail(FINAL)
    async with database.write() as session:
        retried = await jobs.retry(session, new.id)
        assert (retried.extends, retried.from_checkpoint, retried.spec) == (first, new.from_checkpoint, new.spec)
    assert await rows(database, retried.id) == await rows(database, first)
    async with database.write() as session:
        await jobs.cancel(session, retried.id)
        await jobs.delete(session, first)
    async with database.write() as session:
        with pytest.raises(Conflict, match=f"cannot be retried: the checkpoint {new.from_checkpoint} no longer exists"):
            await jobs.retry(session, retried.id)


async def test_an_extension_belongs_to_no_experiment_which_stays_while_it_has_not_ended(database: Database) -> None:
    one_job = {"normalization": [{"type": "group"}], "batch_size": [2]}
    experiment = await test_experiments.create(database, grid=one_job, base={"epochs": 2, **CONSTANT})
    first = await train(database)
    new = await extend(database, first, 5)
    assert (new.experiment_id, new.cell) == (None, None)
    async with database.write() as session:
        with pytest.raises(Conflict, match=f"Job {new.id} has not ended"):
            await experiments.delete(session, experiment)
        await jobs.cancel(session, new.id)
        assert await experiments.delete(session, experiment) == [first]
