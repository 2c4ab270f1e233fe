"""Events have ids in the order in which they become visible, with concurrent writers; logs are searched by text."""

import asyncio
from datetime import UTC, datetime

import pytest

from service.jobs import Status
from service.store import Database, events, jobs
from service.store.listing import JobFilter
from tests.unit.service.store.acting import Worker, create

pytestmark = pytest.mark.anyio


async def test_the_last_id_given_is_that_of_an_event_that_may_be_deleted(database: Database) -> None:
    async with database.read() as session:
        assert await events.last_id_given(session) == 0
    job = await create(database)
    async with database.write() as session:
        await jobs.cancel(session, job)
    async with database.write() as session:
        newest = await events.last_id(session)
        await jobs.delete(session, job)
    async with database.read() as session:
        assert await events.last_id_given(session) == newest == 2
        assert await events.last_id(session) == 0


async def test_ids_become_visible_in_their_order(database: Database) -> None:
    slow_job, quick_job = await create(database), await create(database)
    async with database.read() as session:
        start = await events.last_id(session)
    has_an_id, may_commit = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with database.write() as session:
            await jobs.cancel(session, slow_job)
            has_an_id.set()
            await may_commit.wait()

    async def quick() -> None:
        async with database.write() as session:
            await jobs.cancel(session, quick_job)

    async def visible() -> list[str]:
        async with database.read() as session:
            return [event.job_id for event in await events.after(session, start)]

    first = asyncio.create_task(slow())
    await has_an_id.wait()
    second = asyncio.create_task(quick())
    await asyncio.wait({second}, timeout=0.2)
    assert not second.done(), "a later id must not be committed before an earlier one"
    assert await visible() == [], "a reader does not wait for the writer"
    may_commit.set()
    await asyncio.gather(first, second)
    assert await visible() == [slow_job, quick_job]


async def test_a_follower_misses_nothing_under_concurrent_writers(database: Database) -> None:
    created: list[str] = []
    seen: list[int] = []

    async def write(n: int) -> None:
        for _ in range(4):
            job_id = await create(database, name=str(n))
            created.append(job_id)
            async with database.write() as session:
                await jobs.cancel(session, job_id)

    async def follow() -> None:
        while len(seen) < 2 * 4 * 4:
            async with database.read() as session:
                seen.extend(event.id for event in await events.after(session, seen[-1] if seen else 0, limit=3))

    async with asyncio.timeout(120):
        await asyncio.gather(follow(), *(write(n) for n in range(4)))
    async with database.read() as session:
        assert [event.id for event in await events.after(session, 0)] == seen


async def test_transactions_that_change_jobs_in_opposite_order_do_not_deadlock(database: Database) -> None:
    one, other = await create(database), await create(database)

    async def turn(first: str, second: str) -> None:
        async with database.write() as session:
            for job_id in (first, second):
                await jobs.pause(session, job_id)
            await asyncio.sleep(0)
            for job_id in (first, second):
                await jobs.resume(session, job_id)

    async with asyncio.timeout(120):
        await asyncio.gather(*(turn(*pair) for pair in [(one, other), (other, one)] * 4))
    async with database.read() as session:
        assert (await jobs.count_by_status(session))[Status.QUEUED] == 2


async def test_a_number_is_never_given_twice(database: Database) -> None:
    job_id = await create(database)
    async with database.write() as session:
        await jobs.cancel(session, job_id)
    async with database.read() as session:
        last = await events.last_id(session)
    async with database.write() as session:
        await jobs.delete(session, job_id)
    await create(database)
    async with database.read() as session:
        assert await events.last_id(session) > last, "a follower that saw the deleted events would miss the new ones"


async def test_events_are_read_of_one_job_of_some_or_of_all(database: Database) -> None:
    one, other = await create(database, model="vgg"), await create(database)
    async with database.read() as session:
        assert [e.job_id for e in await events.after(session, 0)] == [one, other]
        assert [e.job_id for e in await events.after(session, 0, job_id=other)] == [other]
        assert [e.job_id for e in await events.after(session, 0, jobs=JobFilter(model=["vgg"]).job_ids())] == [one]
        first = (await events.after(session, 0, limit=1))[0]
        assert [e.job_id for e in await events.after(session, first.id)] == [other]
        assert await events.after(session, 2**62) == []
    assert first.data == {"status": "queued", "reason": None}
    assert (datetime.now(UTC) - first.time).total_seconds() < 60


async def test_logs_are_found_by_level_and_by_what_they_say(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.run(database)
    lines = [
        ("info", "100% done"),
        ("warning", "a_b is not a b"),
        ("error", r"C:\data is gone"),
        ("debug", 'say "Hello"'),
        ("info", "1000 done"),
    ]
    for level, message in lines:
        await worker.log(message, level)

    async def found(**wanted: object) -> list[str]:
        async with database.read() as session:
            return [e.data["message"] for e in await events.logs(session, job_id, **wanted)]  # type: ignore[arg-type]

    assert await found() == [message for _, message in lines]
    assert await found(search="%") == ["100% done"]
    assert await found(search="a_b") == ["a_b is not a b"]
    assert await found(search="\\") == [r"C:\data is gone"]
    assert await found(search='"hello"') == ['say "Hello"'], "without regard to case"
    assert await found(search="\0") == []
    assert await found(levels=["error", "warning"]) == ["a_b is not a b", r"C:\data is gone"]
    assert await found(levels=["info"], search="done") == ["100% done", "1000 done"]
    assert await found(limit=2) == ["100% done", "a_b is not a b"]
    async with database.read() as session:
        second = (await events.logs(session, job_id))[1]
    assert await found(after_id=second.id, limit=1) == [r"C:\data is gone"]
