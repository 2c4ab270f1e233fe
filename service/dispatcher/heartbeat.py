"""`python -m service.dispatcher.heartbeat`: the health check of the containers that run a dispatcher.

It checks the lease in the database. A dispatcher that stands by is therefore as healthy as the active one. Exit codes:
0 if the lease is valid, 1 if it has expired or the database does not answer.
"""

import asyncio
import sys

from service.dispatcher.leadership import ROLE
from service.settings import Settings, settings_or_exit
from service.store import Database, DatabaseError, leases

TIMEOUT_S = 5.0


async def check(settings: Settings) -> str | None:
    """Check the lease. Returns a sentence that describes the problem, or None."""
    try:
        async with asyncio.timeout(TIMEOUT_S), Database(settings.database) as database, database.read() as session:
            lease = await leases.get(session, ROLE)
            now = await leases.now(session)
    except (DatabaseError, OSError) as error:  # a TimeoutError is an OSError
        return f"The database does not answer ({type(error).__name__})."
    if lease is None:
        return "No dispatcher has used this database yet."
    if lease.expires_at <= now:
        return f"The last heartbeat was {(now - lease.renewed_at).total_seconds():.0f} s ago."
    return None


def main() -> int:
    """Check once, and return the exit code."""
    if wrong := asyncio.run(check(settings_or_exit())):
        print(wrong, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
