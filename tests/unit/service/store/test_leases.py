"""A lease has one holder at a time, by the clock of the database, and a former holder cannot write."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from service.store import Database, jobs, leases
from service.store.leases import NotHeld
from tests.unit.service.store.acting import create, history

pytestmark = pytest.mark.anyio


async def acquire(database: Database, holder: str, lease_s: float = 60) -> bool:
    async with database.write() as session:
        return await leases.acquire(session, "dispatcher", holder, lease_s, {"said_by": holder})


async def lease(database: Database) -> tuple[str, dict[str, object]] | None:
    async with database.read() as session:
        found = await leases.get(session, "dispatcher")
        return None if found is None else (found.holder, found.report)


async def test_a_role_has_one_holder(database: Database) -> None:
    assert await lease(database) is None
    assert await acquire(database, "a")
    assert not await acquire(database, "b")
    assert await lease(database) == ("a", {"said_by": "a"}), "who was refused leaves no trace"
    assert await acquire(database, "a"), "renewing"


async def test_another_takes_over_when_it_expired(database: Database) -> None:
    assert await acquire(database, "a", lease_s=-0.001)
    assert await acquire(database, "b")
    assert not await acquire(database, "a")
    assert await lease(database) == ("b", {"said_by": "b"})


async def test_of_many_that_want_it_at_once_one_gets_it(database: Database) -> None:
    for holder_before in (None, "gone"):
        if holder_before:
            async with database.write() as session:
                found = await leases.get(session, "dispatcher")
                assert found is not None
                found.expires_at = datetime.now(UTC) - timedelta(seconds=1)
        taken = await asyncio.gather(*(acquire(database, f"{holder_before}{n}") for n in range(5)))
        assert taken.count(True) == 1


async def test_a_released_role_need_not_be_waited_for(database: Database) -> None:
    assert await acquire(database, "a")
    async with database.write() as session:
        await leases.release(session, "dispatcher", "b")
        await leases.release(session, "nobody's", "b")
    assert not await acquire(database, "b"), "only its holder releases a role"
    async with database.write() as session:
        await leases.release(session, "dispatcher", "a")
    assert await acquire(database, "b")


async def test_who_lost_the_role_writes_nothing(database: Database) -> None:
    job_id = await create(database)
    assert await acquire(database, "a", lease_s=-1)

    async def cancel_as(holder: str) -> None:
        async with database.write() as session:
            await jobs.cancel(session, job_id)
            await leases.assert_held(session, "dispatcher", holder)

    assert await acquire(database, "b")
    for holder in ("a", "nobody"):
        with pytest.raises(NotHeld, match=f"dispatcher is no longer held by {holder}"):
            await cancel_as(holder)
    assert await history(database, job_id) == ["queued"]
    await cancel_as("b")
    assert await history(database, job_id) == ["queued", "cancelled"]


async def test_a_role_cannot_be_taken_over_within_a_write_that_checked_it(database: Database) -> None:
    assert await acquire(database, "a", lease_s=-1)
    checked, may_commit = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        async with database.write() as session:
            await leases.assert_held(session, "dispatcher", "a")
            checked.set()
            await may_commit.wait()

    writing = asyncio.create_task(write())
    await checked.wait()
    taking = asyncio.create_task(acquire(database, "b"))
    await asyncio.wait({taking}, timeout=0.2)
    assert not taking.done()
    may_commit.set()
    await writing
    assert await taking


async def test_the_clock_is_shared_and_runs_within_a_transaction(database: Database) -> None:
    async with database.read() as session:
        first, second = await leases.now(session), await leases.now(session)
    assert first < second
    assert first.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - first) < timedelta(minutes=1)
