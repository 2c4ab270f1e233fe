"""A private PostgreSQL server, for tests and benchmarks."""

import os
import pwd
import shlex
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from pytest_postgresql.executors import PostgreSQLExecutor
from pytest_postgresql.retry import retry


class NotInstalled(Exception):
    """PostgreSQL is not installed on this machine."""


@contextmanager
def private_server() -> Iterator[PostgreSQLExecutor]:
    """Run a server on a free port until the end of the block. Raises `NotInstalled`."""
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
            yield server
        finally:
            server.stop()


def _pg_ctl(folder: Path) -> str:
    """Return the path of pg_ctl, or for root, whom PostgreSQL refuses, of a script that runs it as nobody."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("pg_ctl") or (str(installed[-1]) if installed else None)
    if found is None:
        raise NotInstalled("The server binaries of PostgreSQL (pg_ctl, initdb, postgres) are not installed.")
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


def create_database(server: PostgreSQLExecutor, name: str, of: str | None = None) -> str:
    """Create a database, empty or as a copy `of` another one, and return its URL."""
    administer(server, f"CREATE DATABASE {name}" + (f" TEMPLATE {of}" if of else ""))
    return f"postgresql+psycopg://{server.user}@{server.host}:{server.port}/{name}"


def administer(server: PostgreSQLExecutor, statement: str) -> None:
    """Run a statement that is not allowed in a transaction."""

    def connect() -> psycopg.Connection:
        return psycopg.connect(host=server.host, port=server.port, user=server.user, dbname="postgres", autocommit=True)

    # The server accepts connections before it can answer them.
    with retry(connect, timeout=60, possible_exception=psycopg.OperationalError) as connection:
        connection.execute(statement)
