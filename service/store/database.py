"""The connection to SQLite or PostgreSQL, and its two kinds of transaction."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import URL, event, make_url, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError as ConstraintViolated
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import SQLAlchemyError as DatabaseError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.ext.asyncio import AsyncSession as Session
from sqlalchemy.pool import ConnectionPoolEntry

from service.store.notifications import Channel, follow, notified_by
from service.store.sockets import Sockets
from worker.folders import make_folder

__all__ = [
    "ConstraintViolated",
    "Database",
    "DatabaseError",
    "Session",
    "is_disk_full",
    "is_unavailable",
    "lock_events",
]

BUSY_TIMEOUT_S = 10
DISK_FULL = "53100"
"""The SQLSTATE of PostgreSQL if its disk is full."""
EVENTS_LOCK = 0x6E6F726D
"""PostgreSQL's advisory lock under which events get their ids."""
MIGRATION_LOCK = EVENTS_LOCK + 1
"""PostgreSQL's advisory lock under which the schema is changed."""


class Database:
    """A pool of connections with three kinds of transactions: `read()`, `write()`, and `migrate()` for the schema.

    What `write()` has committed survives a power cut: it returns once the transaction is on the disk. On PostgreSQL a
    default of `synchronous_commit = off` does not apply to these connections.

    SQLite runs in WAL mode, in which readers and the writer do not block each other. A write transaction begins
    IMMEDIATE, because one that begins as a reader fails at once instead of waiting for the lock.

    Args:
        location: A URL of SQLAlchemy, or the path of a file of SQLite, whatever characters it has.
    """

    def __init__(self, location: str | Path) -> None:
        if isinstance(location, Path):
            self.url = URL.create("sqlite+aiosqlite", database=str(location))
        else:
            self.url = make_url(location)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._sockets: Sockets | None = None
        if self.is_sqlite and self.url.database:
            make_folder(Path(self.url.database).parent)
            self._sockets = Sockets(Path(self.url.database))
        self.engine: AsyncEngine = create_async_engine(
            self.url,
            pool_pre_ping=not self.is_sqlite,
            **({"connect_args": {"timeout": BUSY_TIMEOUT_S}} if self.is_sqlite else {}),
        )
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self.engine.sync_engine, "begin", _begin_sqlite)
        else:
            event.listen(self.engine.sync_engine, "connect", _prepare_postgresql)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        writing = self.engine.execution_options(normlab_transaction="write")
        self._writing_sessions = async_sessionmaker(writing, expire_on_commit=False)
        self._writer = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        """Open a transaction that only reads."""
        async with self._sessions() as session, session.begin():
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Session]:
        """Open a transaction that writes. It is committed at the end, and rolled back on an exception.

        Raises:
            PoolTimeout: Other writers of this process took too long.
        """
        async with self._turn(), self._writing_sessions() as session:
            async with session.begin():
                yield session
            if self._sockets is not None:
                for channel in notified_by(session):
                    self._sockets.send(channel)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """On SQLite, let the writers of this process take turns, in their order.

        Those that wait for SQLite's lock hold connections and sleep for longer and longer, while later ones get it.
        """
        if not self.is_sqlite:
            yield
            return
        try:
            async with asyncio.timeout(BUSY_TIMEOUT_S):
                await self._writer.acquire()
        except TimeoutError:
            raise PoolTimeout(f"other writers of this process took {BUSY_TIMEOUT_S} s") from None
        try:
            yield
        finally:
            self._writer.release()

    @asynccontextmanager
    async def listen(self, channel: Channel, notified: Callable[[], None]) -> AsyncIterator[None]:
        """Call `notified` when transactions that notify a channel are committed, by whichever process.

        It is also called whenever notifications may have been missed: at the beginning, and after a lost connection.
        Others can be lost, so the caller also polls.
        """
        if self._sockets is not None:
            with self._sockets.listen(channel, notified):
                yield
            return
        _, arguments = self.engine.dialect.create_connect_args(self.url)
        listening = asyncio.create_task(follow(dict(arguments), channel, notified), name=f"listen {channel}")
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    @asynccontextmanager
    async def migrate(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that changes the schema. Other processes that migrate wait for its end."""
        async with self.engine.connect() as plain:
            connection = await plain.execution_options(normlab_transaction="migrate")
            try:
                async with connection.begin():
                    if not self.is_sqlite:
                        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                    yield connection
                    if self.is_sqlite:
                        broken = (await connection.exec_driver_sql("PRAGMA foreign_key_check")).all()
                        assert not broken, f"the migration leaves rows that refer to nothing: {broken}"
            finally:
                await connection.invalidate()


async def lock_events(session: Session) -> None:
    """Lock the events until the transaction ends, so that their ids become visible in order.

    Otherwise a reader that follows events by id would miss one that got its id early and was committed late. SQLite has
    a single writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": EVENTS_LOCK})


def _prepare_sqlite(connection: Any, _record: ConnectionPoolEntry) -> None:
    # The transactions of the driver begin late, and only for some statements. `_begin_sqlite` begins them instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        # A commit returns once it is on the disk. With NORMAL a power cut would undo what was answered.
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_S * 1000}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    cursor.close()
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    kind = connection.get_execution_options().get("normlab_transaction")
    if kind == "migrate":
        # SQLite changes a table by copying it and dropping the old one, which would delete what refers to its rows.
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if kind else "BEGIN")


def is_unavailable(error: BaseException) -> bool:
    """Return whether the database did not answer or was too busy, so that a repeat may succeed."""
    return isinstance(error, OperationalError | InterfaceError | PoolTimeout)


def is_disk_full(error: BaseException) -> bool:
    """Return whether the database refused a write because its disk is full."""
    origin = getattr(error, "orig", error)
    if getattr(origin, "sqlstate", None) == DISK_FULL:
        return True
    return isinstance(origin, sqlite3.OperationalError) and _code(origin) == sqlite3.SQLITE_FULL


def _code(error: sqlite3.OperationalError) -> int | None:
    # Errors that the module raises without SQLite have no code.
    return getattr(error, "sqlite_errorcode", None)
