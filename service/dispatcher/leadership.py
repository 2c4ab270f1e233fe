"""Being the one active dispatcher."""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service.store import Database, leases

ROLE = "dispatcher"
logger = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """Another dispatcher took over; this one must not write another word."""


class Leadership:
    """The lease on the role of the dispatcher, renewed in the background with a report of how things stand."""

    def __init__(self, database: Database, lease_s: float, report: Callable[[], dict[str, Any]]) -> None:
        self.holder = f"{socket.gethostname()}-{secrets.token_hex(6)}"
        self._database = database
        self._lease_s = lease_s
        self._report = report

    async def acquire(self) -> None:
        """Wait until the role is free, and take it."""
        standing_by = False
        while not await self._renew_once():
            if not standing_by:
                logger.info("another dispatcher is active; standing by")
            standing_by = True
            await asyncio.sleep(self._lease_s / 10)
        logger.info("this dispatcher is active", extra={"holder": self.holder})

    async def keep(self) -> None:
        """Renew for ever. Raises `LeadershipLost` once another holds the role."""
        while True:
            await asyncio.sleep(self._lease_s / 4)
            try:
                held = await self._renew_once()
            except (SQLAlchemyError, OSError) as error:
                # Whoever cannot reach the database cannot write to it either; the holder is checked at every write.
                logger.warning("the lease could not be renewed: %s", error)
                continue
            if not held:
                raise LeadershipLost(f"another dispatcher took over from {self.holder}")

    async def assert_held(self, session: AsyncSession) -> None:
        """Check the role within a transaction that writes. Raises `LeadershipLost`."""
        try:
            await leases.assert_held(session, ROLE, self.holder)
        except leases.NotHeld as error:
            raise LeadershipLost(str(error)) from error

    async def release(self) -> None:
        """Let the next one take over at once."""
        with suppress(SQLAlchemyError, OSError):
            async with self._database.write() as session:
                await leases.release(session, ROLE, self.holder)

    async def _renew_once(self) -> bool:
        async with self._database.write() as session:
            return await leases.acquire(session, ROLE, self.holder, self._lease_s, self._report())
