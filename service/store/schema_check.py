"""Whether the database of the settings has the schema of this code, as JSON: `python -m service.store.schema_check`.

Prints null, or a sentence that describes the difference.
"""

import asyncio
import json
from pathlib import Path

from service.settings import settings_or_exit
from service.store import Database, migrate


async def schema_problem(location: str | Path) -> str | None:
    """Return what differs between the schema of a database and that of this code, None if nothing does."""
    async with Database(location) as database:
        try:
            await migrate.check(database)
        except migrate.SchemaMismatch as error:
            return str(error)
    return None


if __name__ == "__main__":
    print(json.dumps(asyncio.run(schema_problem(settings_or_exit().database))))
