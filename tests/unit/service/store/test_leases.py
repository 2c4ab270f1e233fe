"""A lease has one holder at a time, whatever the time of the day is, and a former holder cannot write."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from service.store import Database, Session, jobs, leases
from service.store.leases import NotHeld
from service.store.tables import Lease
from tests.unit.service.store.acting import create, history

pytestmark = pytest.mark.anyio


async def acquire(database: Database, holder: str, lease_s: float = 60, expired: Lease | None = None) -> bool:
    async with database.write() as session:
        return await leases.acquire(session, "dispatcher", holder, lease_s, {"said_by": holder}, expired=expired)


async def lease(database: Database) -> Lease:
    async with database.read() as session:
        found = await leases.get(session, "dispatcher")
    assert found is not None
    return found


async def test_a_role_has_one_holder(database: Database) -> None:
    async with database.read() as session:
        assert await leases.get(session, "dispatcher") is None
    assert await acquire(database, "a")
    assert not await acquire(database, "b")
    found = await lease(database)
    assert (found.holder, found.beats, found.report) == ("a", 0, {"said_by": "a"}), "who was refused leaves no trace"
    assert await acquire(database, "a"), "renewing"
    assert (await lease(database)).beats == 1


async def test_another_takes_over_a_lease_that_was_not_renewed_since_it_was_read(database: Database) -> None:
    assert await acquire(database, "a")
    read = await lease(database)
    assert await acquire(database, "a")
    assert not await acquire(database, "b", expired=read), "it was renewed meanwhile"
    assert await acquire(database, "b", expired=await lease(database))
    assert not await acquire(database, "a")
    found = await lease(database)
    assert (found.holder, found.beats) == ("b", 2)


async def test_of_many_that_want_it_at_once_one_gets_it(database: Database) -> None:
    before: Lease | None = None
    for turn in ("first", "second"):
        wanted = (acquire(database, f"{turn}{number}", expired=before) for number in range(5))
        assert (await asyncio.gather(*wanted)).count(True) == 1
        before = await lease(database)


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def renewed(beats: int, holder: str = "a") -> Lease:
    return Lease(role="dispatcher", holder=holder, beats=beats, lease_s=5, report={})


def test_the_age_of_a_lease_is_the_time_since_its_renewal_was_seen() -> None:
    clock = Clock()
    watch = leases.Watch(clock)
    assert watch.age_s(renewed(1), 3) == 3, "by another clock, as this one did not see it"
    clock.now += 2
    assert watch.age_s(renewed(1), -3600) == 5, "however the other clock is set"
    assert watch.age_s(renewed(2), -3600) == 0
    clock.now += 4
    assert watch.age_s(renewed(2), 3600) == 4
    assert watch.age_s(renewed(2, "b"), 1) == 1


@pytest.mark.parametrize("set_by", [timedelta(0), timedelta(hours=-1), timedelta(hours=1)])
async def test_a_reader_sees_renewals_however_the_clock_is_set(
    database: Database, monkeypatch: pytest.MonkeyPatch, set_by: timedelta
) -> None:
    now, clock = leases.now, Clock()
    watch = leases.Watch(clock)

    async def heartbeat() -> leases.Heartbeat:
        async with database.read() as session:
            found = await leases.heartbeat(session, "dispatcher", watch)
        assert found is not None
        return found

    async with database.read() as session:
        assert await leases.heartbeat(session, "dispatcher", watch) is None
    assert await acquire(database, "a", lease_s=5)
    assert (await heartbeat()).alive

    async def set_clock(session: Session) -> datetime:
        return await now(session) + set_by

    monkeypatch.setattr(leases, "now", set_clock)
    assert (await heartbeat()).alive
    clock.now += 6
    assert not (await heartbeat()).alive
    assert await acquire(database, "a", lease_s=5)
    assert (await heartbeat()).alive


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
    assert await acquire(database, "a", lease_s=0)

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
    assert await acquire(database, "a", lease_s=0)
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
