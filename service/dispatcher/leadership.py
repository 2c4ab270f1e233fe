"""Leadership: the lease that makes one dispatcher the active one, and the transactions it permits."""

import asyncio
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from service.cluster_report import ClusterReport
from service.store import Database, DatabaseError, Session, leases
from service.store.tables import Lease

ROLE = "dispatcher"
logger = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """Another dispatcher is active; this one must not write to the database."""


class Leadership:
    """The lease on the role of the dispatcher, renewed in the background together with a report on the cluster."""

    def __init__(self, database: Database, lease_s: float, report: Callable[[], ClusterReport]) -> None:
        self.holder = f"{socket.gethostname()}-{secrets.token_hex(6)}"
        self._database = database
        self._lease_s = lease_s
        self._report = report

    async def acquire(self) -> None:
        """Wait until the role is free, and take it."""
        standing_by = False
        watch = leases.Watch()
        while not await self._take(watch):
            if not standing_by:
                logger.info("another dispatcher is active; standing by")
            standing_by = True
            await asyncio.sleep(self._lease_s / 10)
        logger.info("this dispatcher is active", extra={"holder": self.holder})

    async def _take(self, watch: leases.Watch) -> bool:
        """Take the role if it is free, or if its lease has expired. Returns whether this dispatcher holds it."""
        async with self._database.read() as session:
            lease = await leases.get(session, ROLE)
            now = await leases.now(session)
        if lease is None:
            return await self._renew_once()
        # The clock of the database is trusted for the first half of a lease. It may have been set, but a holder that is
        # alive renews the lease within the other half.
        unseen_s = min((now - lease.renewed_at).total_seconds(), lease.lease_s / 2)
        if watch.age_s(lease, unseen_s) < lease.lease_s:
            return False
        return await self._renew_once(expired=lease)

    async def keep(self) -> None:
        """Renew the lease forever.

        Raises:
            LeadershipLost: If another dispatcher holds the role.
        """
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                held = await self._renew_once()
            except (DatabaseError, OSError) as error:
                # Without the database nothing can be written either, and every write checks the holder.
                logger.warning("the lease could not be renewed: %s", error)
                continue
            if not held:
                raise LeadershipLost(f"another dispatcher took over from {self.holder}")

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Session]:
        """A write transaction that holds only while this dispatcher is the active one.

        All other modules of the dispatcher write through this context.

        Raises:
            LeadershipLost: If another dispatcher holds the role; nothing is written.
        """
        async with self._database.write() as session:
            try:
                await leases.assert_held(session, ROLE, self.holder)
            except leases.NotHeld as error:
                raise LeadershipLost(str(error)) from error
            yield session

    async def release(self) -> None:
        """Release the role, so that the next dispatcher takes over at once."""
        with suppress(DatabaseError, OSError):
            async with self._database.write() as session:
                await leases.release(session, ROLE, self.holder)

    async def _renew_once(self, expired: Lease | None = None) -> bool:
        report = self._report().model_dump(mode="json")
        async with self._database.write() as session:
            return await leases.acquire(session, ROLE, self.holder, self._lease_s, report, expired=expired)
