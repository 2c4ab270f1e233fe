"""`python -m service.dispatcher.heartbeat`: whether there is an active dispatcher, for the health checks of containers.

The answer is the lease in the database, so one that stands by is as healthy as the active one: as soon as nobody renews
the lease, neither is. Exit codes: 0 it was renewed within its time, 1 it was not, or the database does not answer.
"""

import asyncio
import sys

from sqlalchemy.exc import SQLAlchemyError

from service.dispatcher.leadership import ROLE
from service.settings import Settings
from service.store import Database, leases

PATIENCE_S = 5.0


async def look(settings: Settings) -> str | None:
    """What is wrong with the heartbeat, or None."""
    try:
        async with asyncio.timeout(PATIENCE_S), Database(settings.database) as database, database.read() as session:
            lease = await leases.get(session, ROLE)
            now = await leases.now(session)
    except (SQLAlchemyError, OSError) as error:  # a TimeoutError is an OSError
        return f"The database does not answer ({type(error).__name__})."
    if lease is None:
        return "No dispatcher has ever run here."
    if lease.expires_at <= now:
        return f"The last heartbeat was {(now - lease.renewed_at).total_seconds():.0f} s ago."
    return None


def main() -> int:
    """Look once."""
    if wrong := asyncio.run(look(Settings())):
        print(wrong, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
