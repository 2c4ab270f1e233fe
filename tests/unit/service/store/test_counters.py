"""Counters grow in the transaction of the counted rows, on both databases, and survive their deletion."""

import asyncio
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, select

from service.experiments.request import ExperimentRequest, expand
from service.store import Database, checkpoints, counters, events, experiments, jobs, migrate
from service.store.tables import Checkpoint
from tests.unit.service.store.acting import FINAL, PASSING, Worker, create

pytestmark = pytest.mark.anyio


async def ended(database: Database) -> dict[str, float]:
    async with database.read() as session:
        return await counters.read(session, counters.ATTEMPTS_ENDED)


async def test_every_end_of_an_attempt_is_counted_once_by_how_it_ended(database: Database) -> None:
    for _ in range(4):
        await create(database)
    await (await Worker.run(database)).finish()
    await (await Worker.run(database)).fail(FINAL)
    await (await Worker.run(database)).finish("failed", PASSING)
    lost = await Worker.run(database)
    await lost.lose()
    assert await ended(database) == {"succeeded": 1, "failed": 2, "lost": 1}


async def test_what_is_rolled_back_is_not_counted(database: Database) -> None:
    async def fail_while_writing() -> None:
        async with database.write() as session:
            await counters.increase(session, "some", {"label": 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_while_writing()
    async with database.read() as session:
        assert await counters.read(session, "some") == {}


async def test_a_deleted_job_stays_counted(database: Database) -> None:
    job = await create(database)
    await (await Worker.run(database)).finish()
    async with database.write() as session:
        await jobs.delete(session, job)
    assert await ended(database) == {"succeeded": 1}


async def test_latencies_are_within_every_bound_that_is_not_below_them(database: Database) -> None:
    async with database.write() as session:
        for seconds in (0.0, 0.1, 0.11, 40.0, 1e6):
            await counters.observe_latency(session, seconds)
    async with database.read() as session:
        buckets, total_s = await counters.latency(session)
    within = dict(buckets)
    assert (within["0.1"], within["0.25"], within["30.0"], within["60.0"]) == (2, 3, 3, 4)
    assert (within["28800.0"], buckets[-1]) == (4, ("+Inf", 5))
    assert total_s == pytest.approx(1_000_040.21)


async def test_nothing_observed_is_a_histogram_of_zeros(database: Database) -> None:
    async with database.read() as session:
        buckets, total_s = await counters.latency(session)
    assert ({count for _, count in buckets}, total_s) == ({0.0}, 0.0)


async def test_the_latency_of_an_attempt_begins_when_its_job_was_last_queued(database: Database) -> None:
    job = await create(database)
    first = await Worker.run(database)
    await first.lose()
    async with database.read() as session:
        requeued = [event.time for event in await events.of_type(session, job, "status")][-1]
    async with database.read() as session:
        assert await events.last_queued_at(session, job) == requeued
    await Worker.run(database)
    async with database.read() as session:
        buckets, _ = await counters.latency(session)
    assert buckets[-1] == ("+Inf", 2)


async def test_the_size_of_all_checkpoints_follows_additions_and_removals(database: Database) -> None:
    async with database.write() as session:
        plan = ExperimentRequest.model_validate(
            {"name": "two", "base": {"normalization": {"type": "group"}}, "grid": {"batch_size": [2, 4]}}
        ).resolved()
        experiment = await experiments.create(session, plan, expand(plan))
    alone = await create(database)
    for _ in range(3):
        worker = await Worker.run(database)
        kept = [await worker.checkpoint(step) for step in (3, 6)]
        await worker.finish()
    assert await stored_bytes(database) == 3 * 2 * 111
    async with database.write() as session:
        await checkpoints.remove(session, kept[:1])
    assert await stored_bytes(database) == 5 * 111
    async with database.write() as session:
        await experiments.delete(session, experiment.id)
    assert await stored_bytes(database) == await bytes_in_rows(database) > 0
    async with database.write() as session:
        await jobs.delete(session, alone)
    assert await stored_bytes(database) == await bytes_in_rows(database) == 0


async def stored_bytes(database: Database) -> int:
    async with database.read() as session:
        return await checkpoints.stored_bytes(session)


async def bytes_in_rows(database: Database) -> int:
    async with database.read() as session:
        return sum(file["size"] for files in await session.scalars(select(Checkpoint.files)) for file in files.values())


async def test_what_was_there_before_there_were_counters_is_counted(empty_database_url: str) -> None:
    at = "2026-01-01 00:00:00+00:00"
    job: dict[str, Any] = {"id": "job_1", "name": "", "spec": "{}", "priority": 0, "max_retries": 2, "model": "vgg"}
    job |= {"normalization": "batch", "batch_size": 2, "seed": 0, "status": "succeeded", "attempts": 2, "failures": 0}
    job |= {"losses": 0, "summary": "{}", "created_at": at, "updated_at": at, "queued_at": at}
    attempt = {"job_id": "job_1", "worker": "w", "node": "n", "last_seq": 1, "resumed_from_step": 0, "started_at": at}
    checkpoint = {"id": "checkpoint_1", "job_id": "job_1", "attempt_id": "attempt_2", "epoch": 1, "step": 1}
    checkpoint |= {"metrics": "{}", "created_at": at}
    checkpoint |= {"files": '{"a": {"size": 3000000000, "sha256": ""}, "b": {"size": 7, "sha256": ""}}'}
    rows = [
        ("jobs", job),
        ("attempts", attempt | {"id": "attempt_1", "number": 1, "outcome": "lost"}),
        ("attempts", attempt | {"id": "attempt_2", "number": 2, "outcome": "succeeded"}),
        ("attempts", attempt | {"id": "attempt_3", "number": 3}),
        ("checkpoints", checkpoint),
    ]

    def to_the_one_before(connection: Connection) -> None:
        command.upgrade(migrate._configuration(connection), "0003")
        for table, row in rows:
            values = ", ".join(f"'{value}'" if isinstance(value, str) else str(value) for value in row.values())
            connection.exec_driver_sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})")

    async with Database(empty_database_url) as database:
        async with database.migrate() as connection:
            await connection.run_sync(to_the_one_before)
        await migrate.upgrade(database)
        assert await ended(database) == {"lost": 1, "succeeded": 1}
        assert await stored_bytes(database) == 3_000_000_007
        async with database.read() as session:
            assert (await session.scalars(select(Checkpoint.size))).all() == [3_000_000_007]


async def test_writers_at_once_lose_no_count(database: Database) -> None:
    async def one() -> None:
        async with database.write() as session:
            await counters.increase(session, "some", {"label": 1, "other": 0.5})

    await asyncio.gather(*(one() for _ in range(8)))
    async with database.read() as session:
        assert await counters.read(session, "some") == {"label": 8, "other": 4}
