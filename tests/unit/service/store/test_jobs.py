"""Jobs are stored as requested, counted, bound to idempotency keys, and deleted completely."""

import re

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from service.errors import NotFound
from service.jobs import Status
from service.store import Database, checkpoints, jobs
from service.store.identifiers import new_id
from service.store.tables import Idempotency, Job, Table
from tests.unit.service.store.acting import FINAL, Worker, create, request, row
from worker.spec import TrainingSpec

pytestmark = pytest.mark.anyio


async def test_a_job_is_kept_as_it_was_asked_for(database: Database) -> None:
    asked = request(
        recipe="labml", name="vgg", seed=2**63 - 1, priority=-3, max_retries=0, labels={"a": "1", "b": "2"}, epochs=3
    )
    async with database.write() as session:
        job_id = (await jobs.create(session, asked, experiment_id="experiment_1")).id
    async with database.read() as session:
        job = await jobs.get(session, job_id)
        labels = await jobs.labels(session, [job_id, "job_other"])
    assert TrainingSpec.model_validate(job.spec) == asked.training
    assert (job.name, job.priority, job.max_retries, job.experiment_id) == ("vgg", -3, 0, "experiment_1")
    assert (job.model, job.normalization, job.batch_size, job.seed) == ("vgg", "group", 2, 2**63 - 1)
    assert (job.status, job.attempts, job.failures, job.losses) == (Status.QUEUED, 0, 0, 0)
    assert (job.error, job.progress, job.summary, job.started_at, job.finished_at) == (None, None, {}, None, None)
    assert labels == {job_id: {"a": "1", "b": "2"}}


async def test_ids_sort_by_the_time_they_were_made(database: Database) -> None:
    made = [await create(database) for _ in range(5)]
    assert made == sorted(made)
    assert all(re.fullmatch(r"job_[0-9a-hjkmnp-tv-z]{26}", job_id) for job_id in made)
    assert len({new_id("x") for _ in range(1000)}) == 1000


async def test_jobs_are_counted_in_every_state_there_is(database: Database) -> None:
    async with database.read() as session:
        assert await jobs.oldest_queued_at(session) is None
    first, _ = await create(database), await create(database)
    await Worker.claim(database)
    async with database.read() as session:
        assert await jobs.count_by_status(session) == dict.fromkeys(Status, 0) | {
            Status.QUEUED: 1,
            Status.STARTING: 1,
        }
        oldest = await jobs.oldest_queued_at(session)
        assert oldest is not None
        assert oldest > (await jobs.get(session, first)).queued_at


async def test_a_key_is_bound_to_one_job_of_its_client(database: Database) -> None:
    async def bind(client: str, key: str, fingerprint: str) -> None:
        async with database.write() as session:
            job = await jobs.create(session, request())
            await jobs.remember_answer(session, client, key, fingerprint, job.id)

    await bind("ann", "key", "body")
    await bind("bob", "key", "body")
    await bind("ann", "other key", "body")
    with pytest.raises(IntegrityError):
        await bind("ann", "key", "another body")
    async with database.read() as session:
        assert await jobs.answered(session, "eve", "key") is None
        answer = await jobs.answered(session, "ann", "key")
        assert answer is not None
        assert answer.fingerprint == "body"
        assert await session.scalar(select(func.count()).select_from(Job)) == 3, "the refused one made no job"


async def test_nothing_remains_of_a_deleted_job_and_others_keep_theirs(database: Database) -> None:
    for _ in range(2):
        async with database.write() as session:
            job = await jobs.create(session, request(labels={"a": "b"}))
            await jobs.remember_answer(session, "ann", job.id, "body", job.id)
        worker = await Worker.run(database)
        await worker.report(row(1))
        await worker.checkpoint(1)
        await worker.fail(FINAL)
    async with database.write() as session:
        retried = await jobs.retry(session, worker.job)
    before = await everything(database)
    kept = set(before)

    async with database.write() as session:
        await jobs.delete(session, worker.job)
    left = await everything(database)
    tables = {table for table, _ in kept}
    assert tables == {"labels", "attempts", "events", "metrics", "summaries", "checkpoints", "idempotency"}
    assert {table for table, job_id in left if job_id == worker.job} == set()
    assert {table for table, _ in kept - set(left)} == tables
    assert all(before[key] == count for key, count in left.items())
    async with database.read() as session:
        assert (await jobs.get(session, retried.id)).retry_of is None
        assert await jobs.with_artifacts(session, [worker.job, retried.id]) == {retried.id}


async def everything(database: Database) -> dict[tuple[str, str], int]:
    """Return the number of rows of each job in each table."""
    counted: dict[tuple[str, str], int] = {}
    async with database.read() as session:
        for table in Table.metadata.sorted_tables:
            column = table.columns.get("job_id", table.columns.get("answer"))
            if column is not None:
                query = select(column, func.count()).group_by(column)
                counted |= {(table.name, job_id): n for job_id, n in await session.execute(query)}
    return counted


async def test_a_checkpoint_is_picked_kept_or_superfluous(database: Database) -> None:
    await create(database)
    worker = await Worker.run(database)
    taken = {
        step: await worker.checkpoint(step, **measured)
        for step, measured in {
            3: {"test_error": 0.5},
            6: {"test_error": 0.25},
            7: {},
            9: {"test_error": 0.25},
            12: {"test_error": float("nan")},
            15: {"test_error": 0.75},
        }.items()
    }
    async with database.write() as session:
        found = await checkpoints.of_job(session, worker.job)
        assert [checkpoint.step for checkpoint in found] == [15, 12, 9, 7, 6, 3]
        assert (await checkpoints.pick(session, worker.job, "latest")).id == taken[15]
        assert (await checkpoints.pick(session, worker.job, "best")).id == taken[6], "the earlier of equals"
        assert [c.step for c in checkpoints.superfluous(found, keep_last=2)] == [9, 7, 3], "the best one is kept"
        assert [c.step for c in checkpoints.superfluous(found, keep_last=9)] == []
        assert (await checkpoints.get(session, taken[12])).metrics == {"test_error": None}
        assert await checkpoints.stored_bytes(session) == 6 * 111
        await checkpoints.remove(session, [taken[6], taken[9]])
        assert await checkpoints.stored_bytes(session) == 4 * 111
    async with database.read() as session:
        assert (await checkpoints.pick(session, worker.job, "best")).id == taken[3]
        for missing in (taken[6], "checkpoint_none", "\0"):
            with pytest.raises(NotFound, match=f"There is no checkpoint {missing}"):
                await checkpoints.get(session, missing)


async def test_held_out_images_decide_which_checkpoint_is_best(database: Database) -> None:
    await create(database)
    worker = await Worker.run(database)
    with_holdout = [
        await worker.checkpoint(3, holdout_error=0.3, test_error=0.1),
        await worker.checkpoint(6, holdout_error=0.2, test_error=0.9),
    ]
    async with database.read() as session:
        assert (await checkpoints.pick(session, worker.job, "best")).id == with_holdout[1]


async def test_a_job_without_checkpoints_has_no_best_one(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.run(database)
    await worker.checkpoint(2)
    async with database.read() as session:
        with pytest.raises(NotFound, match=f"There is no checkpoint best of job {job_id}"):
            await checkpoints.pick(session, job_id, "best")
        assert (await checkpoints.pick(session, job_id, "latest")).step == 2


async def test_the_retry_of_a_deleted_retry_stands_in_its_place(database: Database) -> None:
    async with database.write() as session:
        [first] = await jobs.create_all(session, [("cell", request())], "experiment_1")
        await jobs.cancel(session, first)
        second = await jobs.retry(session, first)
        await jobs.cancel(session, second.id)
        third = await jobs.retry(session, second.id)
        assert (third.cell, third.experiment_id) == ("cell", "experiment_1")
        await jobs.delete(session, second.id)
    async with database.write() as session:
        assert (await jobs.get(session, third.id)).retry_of == first
        await jobs.delete(session, first)
    async with database.read() as session:
        assert (await jobs.get(session, third.id)).retry_of is None


async def test_keys_outlive_no_job(database: Database) -> None:
    async with database.write() as session:
        job = await jobs.create(session, request())
        await jobs.remember_answer(session, "ann", "key", "body", job.id)
        await jobs.cancel(session, job.id)
        await jobs.delete(session, job.id)
    async with database.read() as session:
        assert await session.scalar(select(func.count()).select_from(Idempotency)) == 0
