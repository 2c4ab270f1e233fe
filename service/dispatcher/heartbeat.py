"""`python -m service.dispatcher.heartbeat`: the health check of the containers that run a dispatcher.

It checks the lease in the database. A dispatcher that stands by is therefore as healthy as the active one. Exit codes:
0 if the lease is valid, 1 if it has expired or the database does not answer.
"""

import asyncio
import sys
import time

from service.dispatcher.leadership import ROLE
from service.settings import Settings, settings_or_exit
from service.store import Database, DatabaseError, leases
from service.store.tables import Lease

TIMEOUT_S = 8.0
LOOK_S = 0.2
"""Pause between two looks at a lease whose age is in doubt."""


async def check(settings: Settings) -> str | None:
    """Check the lease. Returns a sentence that describes the problem, or None."""
    try:
        async with asyncio.timeout(TIMEOUT_S), Database(settings.database) as database:
            first = await _look(database)
            if first is None:
                return "No dispatcher has used this database yet."
            lease, age_s = first
            if 0 <= age_s < lease.lease_s:
                return None
            # The clock may have been set since. A dispatcher that is alive renews its lease in a third of its time.
            deadline = time.monotonic() + lease.lease_s / 2
            while time.monotonic() < deadline:
                await asyncio.sleep(LOOK_S)
                if (again := await _look(database)) and again[0].beats != lease.beats:
                    return None
            return f"The last heartbeat was {max(0.0, age_s):.0f} s ago."
    except (DatabaseError, OSError) as error:  # a TimeoutError is an OSError
        return f"The database does not answer ({type(error).__name__})."


async def _look(database: Database) -> tuple[Lease, float] | None:
    """The lease and its age by the clock of the database, None if there is none."""
    async with database.read() as session:
        lease = await leases.get(session, ROLE)
        now = await leases.now(session)
    return None if lease is None else (lease, (now - lease.renewed_at).total_seconds())


def main() -> int:
    """Check once, and return the exit code."""
    if wrong := asyncio.run(check(settings_or_exit())):
        print(wrong, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
