"""The health check of dispatchers follows the age of the lease."""

import asyncio
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from service.dispatcher import heartbeat
from service.settings import Settings
from service.store import Database, Session, leases

pytestmark = pytest.mark.anyio


def pointing_at(url: str, tmp_path: Path) -> Settings:
    plain = url.replace("sqlite+aiosqlite", "sqlite").replace("postgresql+psycopg", "postgresql")
    return Settings(home=tmp_path, database_url=plain)


async def test_a_lease_that_is_renewed_is_a_heartbeat(database_url: str, tmp_path: Path) -> None:
    settings = pointing_at(database_url, tmp_path)
    assert await heartbeat.check(settings) == "No dispatcher has used this database yet."
    async with Database(database_url) as database:
        async with database.write() as session:
            await leases.acquire(session, "dispatcher", "one", 60, {})
        assert await heartbeat.check(settings) is None
        async with database.write() as session:
            await leases.release(session, "dispatcher", "one")
        assert re.fullmatch(r"The last heartbeat was \d+ s ago\.", str(await heartbeat.check(settings)))


@pytest.mark.parametrize("set_by_h", [-1, 1])
@pytest.mark.parametrize("renews", [False, True])
async def test_a_heartbeat_is_found_however_the_clock_is_set(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by_h: int, renews: bool
) -> None:
    now = leases.now

    async def set_clock(session: Session) -> datetime:
        return await now(session) + timedelta(hours=set_by_h)

    async with Database(database_url) as database:

        async def look(seconds: float) -> None:
            if renews:
                async with database.write() as session:
                    await leases.acquire(session, "dispatcher", "one", 0.02, {})

        async with database.write() as session:
            await leases.acquire(session, "dispatcher", "one", 0.02, {})
        monkeypatch.setattr(leases, "now", set_clock)
        monkeypatch.setattr(asyncio, "sleep", look)
        problem = await heartbeat.check(pointing_at(database_url, tmp_path))
    assert problem is None if renews else problem is not None


async def test_a_database_that_does_not_answer_is_said(free_tcp_port: int, tmp_path: Path) -> None:
    nobody = pointing_at(f"postgresql://normlab:secret@127.0.0.1:{free_tcp_port}/normlab", tmp_path)
    assert await heartbeat.check(nobody) == "The database does not answer (OperationalError)."


def test_the_command_says_what_is_wrong_and_exits_accordingly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sqlite_template: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'copy.db'}"
    (tmp_path / "copy.db").write_bytes(sqlite_template.read_bytes())
    monkeypatch.setenv("NORMLAB_DATABASE_URL", url)
    assert heartbeat.main() == 1
    assert capsys.readouterr().err == "No dispatcher has used this database yet.\n"

    async def renew() -> None:
        async with Database(url.replace("sqlite", "sqlite+aiosqlite", 1)) as database, database.write() as session:
            await leases.acquire(session, "dispatcher", "one", 60, {})

    asyncio.run(renew())
    assert heartbeat.main() == 0
    assert capsys.readouterr().err == ""
