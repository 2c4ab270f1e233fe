"""Fixtures of the whole suite."""

import asyncio
import os
import pwd
import shlex
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import psycopg
import pytest
from pytest_postgresql.executors import PostgreSQLExecutor
from pytest_postgresql.retry import retry

from service.store import Database, migrate

_numbers = count(1)


@pytest.fixture
def anyio_backend() -> str:
    """Every asynchronous test runs on asyncio, as the product does."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgreSQLExecutor]:
    """A private PostgreSQL server on a free port, with a migrated database `template`."""
    with tempfile.TemporaryDirectory(prefix="normlab-postgres-") as folder:
        server = PostgreSQLExecutor(
            executable=_pg_ctl(Path(folder)),
            host="127.0.0.1",
            port=_free_port(),
            datadir=f"{folder}/data",
            unixsocketdir=folder,
            logfile=f"{folder}/log",
            startparams="-w",
            dbname="postgres",
            postgres_options="-c max_connections=60",
        )
        server.start()
        try:
            asyncio.run(_migrate(_create_database(server, "template", of=None)))
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(_migrate(f"sqlite+aiosqlite:///{path}"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh migrated database: once on SQLite, once on PostgreSQL."""
    if request.param == "sqlite":
        path = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "normlab.db")
        yield f"sqlite+aiosqlite:///{path}"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"test{next(_numbers)}"
    yield _create_database(server, name, of="template")
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table: once on SQLite, once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    name = f"test{next(_numbers)}"
    yield _create_database(server, name, of=None)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A fresh migrated database: once on SQLite, once on PostgreSQL."""
    async with Database(database_url) as database:
        yield database


def _pg_ctl(folder: Path) -> str:
    """The path of pg_ctl. PostgreSQL refuses to run as root: then of a script that runs it as nobody."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("pg_ctl") or (str(installed[-1]) if installed else None)
    if found is None:
        sentence = "PostgreSQL's server binaries (pg_ctl, initdb, postgres) are not installed."
        if os.environ.get("CI") == "true":
            pytest.fail(f"{sentence} CI is true, so these tests may not be skipped.", pytrace=False)
        pytest.skip(sentence)
    if os.geteuid() != 0:
        return found
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    script = folder / "pg_ctl"
    script.write_text(
        "#!/bin/sh\n"
        "cd /\n"
        f'exec setpriv --reuid={nobody.pw_uid} --regid={nobody.pw_gid} --clear-groups {shlex.quote(found)} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _create_database(server: PostgreSQLExecutor, name: str, of: str | None) -> str:
    _administer(server, f"CREATE DATABASE {name}" + (f" TEMPLATE {of}" if of else ""))
    return f"postgresql+psycopg://{server.user}@{server.host}:{server.port}/{name}"


def _administer(server: PostgreSQLExecutor, statement: str) -> None:
    def connect() -> psycopg.Connection:
        return psycopg.connect(host=server.host, port=server.port, user=server.user, dbname="postgres", autocommit=True)

    # The server takes connections before it answers them.
    with retry(connect, timeout=60, possible_exception=psycopg.OperationalError) as connection:
        connection.execute(statement)


async def _migrate(url: str) -> None:
    async with Database(url) as database:
        await migrate.upgrade(database)
