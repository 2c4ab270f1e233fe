"""Transactions: readers do not wait, writers are serialized, and a full disk is distinguished from other errors."""

import asyncio
import sqlite3
import stat
from pathlib import Path

import psycopg
import pytest
from pytest_postgresql.executors import PostgreSQLExecutor
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.jobs import Status
from service.settings import Settings
from service.store import Database, jobs, migrate
from service.store import database as module
from service.store.database import is_disk_full, is_unavailable
from tests.postgres import create_database
from tests.unit.service.store.acting import create, request
from worker.folders import PRIVATE

pytestmark = pytest.mark.anyio


async def test_a_write_that_fails_leaves_no_trace(database: Database) -> None:
    async def fail() -> None:
        async with database.write() as session:
            await jobs.create(session, request())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with database.read() as session:
        assert sum((await jobs.count_by_status(session)).values()) == 0


async def test_readers_see_what_is_committed_and_do_not_wait_for_the_writer(database: Database) -> None:
    async with database.write() as writing:
        await jobs.create(writing, request())
        await writing.flush()
        async with asyncio.timeout(120), database.read() as reading:
            assert (await jobs.count_by_status(reading))[Status.QUEUED] == 0
    async with database.read() as reading:
        assert (await jobs.count_by_status(reading))[Status.QUEUED] == 1


async def test_writers_of_a_process_do_not_overtake_each_other(tmp_path: Path) -> None:
    done: list[int] = []

    async def write(database: Database, number: int) -> None:
        async with database.write() as session:
            await session.execute(text("CREATE TABLE IF NOT EXISTS numbers (number INTEGER)"))
            done.append(number)

    async with Database(tmp_path / "normlab.db") as database, asyncio.TaskGroup() as tasks:
        for number in range(40):
            tasks.create_task(write(database, number))
    assert done == list(range(40))


async def test_a_writer_that_waited_too_long_for_others_of_its_process_may_try_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    async with Database(tmp_path / "normlab.db") as database:
        async with database.write():
            with pytest.raises(PoolTimeout) as raised:
                await database.write().__aenter__()
        assert is_unavailable(raised.value)
        async with database.write() as session:
            await session.execute(text("SELECT 1"))


async def test_writers_take_turns(database: Database) -> None:
    await asyncio.gather(*(create(database) for _ in range(12)))
    async with database.read() as session:
        assert (await jobs.count_by_status(session))[Status.QUEUED] == 12


@pytest.mark.parametrize("name", ["what?", "what?uri=true", "a#b", "100%25", "50 % ü", "a@b:c"])
async def test_a_home_may_have_any_name_and_has_a_database_of_its_own(tmp_path: Path, name: str) -> None:
    settings = Settings(home=tmp_path / name)
    async with Database(settings.database) as database, database.read() as session:
        await session.execute(text("SELECT 1"))
    assert (settings.home / "normlab.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


async def test_sqlite_gives_a_writer_up_that_waited_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT_S", 0.05)
    file = tmp_path / "normlab.db"
    async with Database(file) as of_another_process, Database(file) as database:
        await migrate.upgrade(database)
        async with of_another_process.write() as session:
            await jobs.create(session, request())
            with pytest.raises(OperationalError, match="database is locked") as refusal:
                await create(database)
        assert not is_disk_full(refusal.value)
        assert await create(database), "and the next one gets its turn"


async def test_a_full_disk_is_distinguished_from_other_errors(tmp_path: Path) -> None:
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/normlab.db") as database:
        await migrate.upgrade(database)

        async def overfill() -> None:
            for _ in range(100):
                async with database.write() as session:
                    await session.execute(text("PRAGMA max_page_count = 1"))
                    await jobs.create(session, request(labels={str(n): "y" * 100 for n in range(32)}))

        with pytest.raises(OperationalError) as refusal:
            await overfill()
    assert is_disk_full(refusal.value)
    assert is_disk_full(psycopg.errors.DiskFull("could not extend file"))
    assert not is_disk_full(sqlite3.OperationalError("no such table: full"))
    assert not is_disk_full(OSError("full"))


async def test_a_commit_waits_until_it_is_on_the_disk(database: Database) -> None:
    if not database.is_sqlite:
        name = database.url.database
        async with database.write() as session:
            await session.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
        await database.close()  # a default of the database applies to new connections
    setting = "PRAGMA synchronous" if database.is_sqlite else "SHOW synchronous_commit"
    async with database.write() as session, database.read() as reading:
        found = [(await one.execute(text(setting))).scalar_one() for one in (session, reading)]
    assert found == ([2, 2] if database.is_sqlite else ["on", "on"])


@pytest.mark.postgres
async def test_a_choice_of_the_operator_for_standbys_stays(postgres_server: PostgreSQLExecutor) -> None:
    url = create_database(postgres_server, "standbys") + "?options=-csynchronous_commit%3Dremote_apply"
    async with Database(url) as database, database.write() as session:
        assert (await session.execute(text("SHOW synchronous_commit"))).scalar_one() == "remote_apply"


async def test_the_folder_of_the_database_is_made(tmp_path: Path) -> None:
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/new/folder/normlab.db") as database:
        await migrate.upgrade(database)
        await migrate.check(database)
        assert stat.S_IMODE((tmp_path / "new/folder").stat().st_mode) == PRIVATE
        async with database.read() as session:
            assert (await session.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
            assert (await session.execute(text("PRAGMA foreign_keys"))).scalar_one() == 1
