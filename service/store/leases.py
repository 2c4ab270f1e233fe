"""Leases: each role is held by at most one process at a time.

The holder counts its renewals, and whoever waits for the role or asks for the age of the lease watches this count by a
monotonic clock of its own: the time of the day can be set.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from service.store.tables import Lease


class NotHeld(Exception):
    """Another process holds the role; this one must not write."""


async def now(session: AsyncSession) -> datetime:
    """The time of the clock that all holders share: that of the database, or of this machine for SQLite."""
    if session.get_bind().dialect.name == "postgresql":
        found: datetime | None = await session.scalar(select(func.clock_timestamp()))
        assert found is not None
        return found
    return datetime.now(UTC)


def _acquire(insert: Any) -> Any:
    """Return the statement of `acquire`."""
    statement = insert(Lease.__table__)
    given = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["role"],
        set_={name: given[name] for name in ("holder", "lease_s", "renewed_at", "report")} | {"beats": Lease.beats + 1},
        where=(Lease.holder == given.holder)
        | (Lease.lease_s <= 0)
        | ((Lease.holder == bindparam("expired_holder")) & (Lease.beats == bindparam("expired_beats"))),
    ).returning(Lease.holder)


# Built once: building them takes longer than running them.
_ACQUIRE = {"postgresql": _acquire(postgresql.insert), "sqlite": _acquire(sqlite.insert)}
_HELD = select(Lease.holder).where(Lease.role == bindparam("role")).with_for_update(read=True)


async def acquire(
    session: AsyncSession,
    role: str,
    holder: str,
    lease_s: float,
    report: dict[str, Any],
    *,
    expired: Lease | None = None,
) -> bool:
    """Take or renew a role.

    Args:
        session: A write transaction.
        role: The role.
        holder: The id of this process.
        lease_s: The seconds without a renewal after which the lease expires.
        report: Stored with the lease, for readers.
        expired: A lease of another holder that has expired. It is replaced if it was not renewed since it was read.

    Returns:
        Whether this process holds the role now.
    """
    values = {
        "role": role,
        "holder": holder,
        "beats": 0,
        "lease_s": lease_s,
        "renewed_at": await now(session),
        "report": report,
        "expired_holder": expired.holder if expired else "",
        "expired_beats": expired.beats if expired else -1,
    }
    taken: str | None = await session.scalar(_ACQUIRE[session.get_bind().dialect.name], values)
    return taken == holder


async def assert_held(session: AsyncSession, role: str, holder: str) -> None:
    """Check, in a write transaction, that `holder` holds the role until its end. Raises `NotHeld`."""
    if await session.scalar(_HELD, {"role": role}) != holder:
        raise NotHeld(f"{role} is no longer held by {holder}")


async def release(session: AsyncSession, role: str, holder: str) -> None:
    """Release the role, so that the next holder does not wait until the lease expires."""
    lease = await session.get(Lease, role, with_for_update=True)
    if lease is not None and lease.holder == holder:
        lease.lease_s = 0


async def get(session: AsyncSession, role: str) -> Lease | None:
    """The last lease of the role, or None if it was never held."""
    return await session.get(Lease, role)


class Watch:
    """How long ago a lease was renewed, by the monotonic clock of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: tuple[str, int] | None = None
        self._renewed_at = 0.0

    def age_s(self, lease: Lease, unseen_s: float) -> float:
        """The seconds since a lease was renewed.

        Args:
            lease: The lease, as read now.
            unseen_s: The age of a renewal that is seen for the first time, by another clock. It is at least 0.
        """
        time_ = self._clock()
        if self._seen != (lease.holder, lease.beats):
            self._seen, self._renewed_at = (lease.holder, lease.beats), time_ - max(0.0, unseen_s)
        return time_ - self._renewed_at


@dataclass(frozen=True)
class Heartbeat:
    """A lease, and the seconds since it was renewed."""

    lease: Lease
    age_s: float

    @property
    def alive(self) -> bool:
        """Whether the lease is valid."""
        return self.age_s < self.lease.lease_s


async def heartbeat(session: AsyncSession, role: str, watch: Watch) -> Heartbeat | None:
    """The last lease of a role and its age, None if it was never held.

    A renewal that `watch` has not seen yet has the age that the clock of the database gives it.
    """
    lease = await get(session, role)
    if lease is None:
        return None
    return Heartbeat(lease, watch.age_s(lease, (await now(session) - lease.renewed_at).total_seconds()))
