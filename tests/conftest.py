"""Fixtures of the whole suite."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

# OpenMP's threads wait for each other: beside other processes on the same cores, two are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
from httpx2._config import DEFAULT_TIMEOUT_CONFIG
from pytest_postgresql.executors import PostgreSQLExecutor

from service.store import Database, migrate
from tests.postgres import NotInstalled, administer, create_database, private_server
from tests.reaper import pytest_configure as pytest_configure

if TYPE_CHECKING:
    from xdist.scheduler import LoadFileScheduling

# On a loaded machine an answer may take longer than the 5 s that requests without a client wait.
DEFAULT_TIMEOUT_CONFIG.read = 120
# On a loaded machine examples may take any time.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

_numbers = count(1)
ONE_AFTER_ANOTHER = ("tests/dashboard/", "tests/integration/dispatcher/")
"""Packages with a browser or a Ray cluster, several of which would compete for the cores."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadFileScheduling":
    """Distribute whole files to the processes, and some whole packages."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return next((package for package in ONE_AFTER_ANOTHER if file.startswith(package)), file)

    return Scheduling(config, log)


@pytest.fixture
def anyio_backend() -> str:
    """Run every asynchronous test on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgreSQLExecutor]:
    """A private PostgreSQL server on a free port, with a migrated database `template`."""
    try:
        with private_server() as server:
            asyncio.run(_migrate(create_database(server, "template")))
            yield server
    except NotInstalled as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{missing} CI is true, so these tests may not be skipped.", pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a migrated SQLite database, which tests copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(_migrate(f"sqlite+aiosqlite:///{path}"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new migrated database, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        path = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "normlab.db")
        yield f"sqlite+aiosqlite:///{path}"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"test{next(_numbers)}"
    yield create_database(server, name, of="template")
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"test{next(_numbers)}"
    yield create_database(server, name)
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A new migrated database, on SQLite and on PostgreSQL."""
    async with Database(database_url) as database:
        yield database


async def _migrate(url: str) -> None:
    async with Database(url) as database:
        await migrate.upgrade(database)
