"""Migrate the database to the schema of this code: `python -m service.store.migrate`.

The revisions are in `service/store/migrations/versions`, oldest first. After a change to `tables.py`,
`python -m service.store.migrate --revision "what changed"` writes the next one, to be read and corrected by hand.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

from service.settings import Settings, settings_or_exit
from service.store.database import Database

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).with_name("migrations")
WAIT_S = 60.0
"""Seconds to wait for a database that does not answer yet, because containers start in any order."""

log = logging.getLogger(__name__)


class SchemaMismatch(Exception):
    """The schema of the database is not that of this code."""


class NotMigrated(SchemaMismatch):
    """The schema is missing or older, and can be migrated."""


async def upgrade(database: Database) -> None:
    """Migrate the schema to the newest revision. Idempotent.

    Concurrent migrations wait for one another. Raises `SchemaMismatch`, and changes nothing, if a newer version of
    normlab has migrated the database.
    """
    async with database.migrate() as connection:
        before = await connection.run_sync(_revision)
        if before is not None and before not in _known():
            raise SchemaMismatch(_newer(before))
        await connection.run_sync(_upgrade)
        after = await connection.run_sync(_revision)
    if before != after:
        log.info("the database went from revision %s to %s", before or "none", after)


async def check(database: Database) -> None:
    """Raise `SchemaMismatch`, whose message has the remedy, unless the schema is that of this code."""
    async with database.read() as session:
        revision = await (await session.connection()).run_sync(_revision)
    head = _head()
    if revision is None:
        raise NotMigrated("The database has no tables yet: run `python -m service.store.migrate`.")
    if revision not in _known():
        raise SchemaMismatch(_newer(revision))
    if revision != head:
        raise NotMigrated(
            f"The database is at revision {revision} and this version of normlab needs {head}: "
            "run `python -m service.store.migrate`."
        )


async def wait(database: Database, timeout_s: float | None = None) -> None:
    """Wait until the database answers. Raises its error after `timeout_s` seconds, by default `WAIT_S`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (WAIT_S if timeout_s is None else timeout_s)
    pause_s = 0.1
    while True:
        try:
            async with database.read() as session:
                await session.execute(text("SELECT 1"))
            return
        except OperationalError as error:
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise
            log.warning("the database does not answer, waiting up to %.0f s for it: %s", left_s, error.orig)
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, 5.0)


async def settle(database: Database, timeout_s: float | None = None) -> None:
    """Wait until the database answers, and until another process has migrated it to the schema of this code.

    Raises `SchemaMismatch`: at once if waiting cannot help (a newer schema, or SQLite, which the supervisor migrates
    first), else after `timeout_s` (default: `WAIT_S`), which applies to each of the two waits.
    """
    await wait(database, timeout_s)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (WAIT_S if timeout_s is None else timeout_s)
    logged = False
    while True:
        try:
            return await check(database)
        except NotMigrated as error:
            if database.is_sqlite or loop.time() >= deadline:
                raise
            if not logged:
                log.warning("waiting up to %.0f s for the migration of the database: %s", deadline - loop.time(), error)
            logged = True
            await asyncio.sleep(0.5)


def write_revision(message: str, folder: Path = MIGRATIONS) -> Path:
    """Write the next revision: the difference between `tables.py` and the newest revision in `folder`."""
    from alembic import command
    from alembic.script import ScriptDirectory

    def write(connection: Connection) -> Path:
        configuration = _configuration(connection, folder)
        command.upgrade(configuration, "head")
        number = len(list(ScriptDirectory.from_config(configuration).walk_revisions())) + 1
        script = command.revision(configuration, message, autogenerate=True, rev_id=f"{number:04}")
        assert script is not None
        assert not isinstance(script, list)
        return Path(script.path)

    async def in_an_empty_database() -> Path:
        with tempfile.TemporaryDirectory() as home:
            async with Database(Path(home, "empty.db")) as database, database.migrate() as connection:
                return await connection.run_sync(write)

    return asyncio.run(in_an_empty_database())


def _configuration(connection: Connection, folder: Path = MIGRATIONS) -> "Config":
    # Imported here, because the api compares revisions whenever it starts, and alembic takes long to import.
    from alembic.config import Config

    configuration = Config(attributes={"connection": connection})
    configuration.set_main_option("script_location", str(folder).replace("%", "%%"))
    return configuration


def _upgrade(connection: Connection) -> None:
    from alembic import command

    command.upgrade(_configuration(connection), "head")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _head() -> str:
    return max(_known())


def _known() -> frozenset[str]:
    # The files are named after their revisions, which are numbers.
    return frozenset(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _newer(revision: str) -> str:
    return (
        f"The database is at revision {revision}, which this version of normlab (up to {_head()}) does not know: "
        "a newer version has migrated it. Install that version, or restore a backup."
    )


async def _migrate(settings: Settings) -> None:
    async with Database(settings.database) as database:
        await wait(database)
        await upgrade(database)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status: 0, or 1 if the schema cannot be migrated."""
    parser = argparse.ArgumentParser(prog="python -m service.store.migrate", description="Migrate normlab's database.")
    parser.add_argument("--revision", metavar="MESSAGE", help="write the next revision instead, from tables.py")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel("WARNING")
    if options.revision:
        print(write_revision(options.revision))
        return 0
    settings = settings_or_exit()
    try:
        asyncio.run(_migrate(settings))
    except SchemaMismatch as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The database cannot be opened: {error}", file=sys.stderr)
        return 1
    except OperationalError as error:
        print(f"The database does not answer: {error.orig}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
