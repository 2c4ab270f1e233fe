"""Leases: each role is held by at most one process at a time."""

from datetime import UTC, datetime, timedelta
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
        time: datetime | None = await session.scalar(select(func.clock_timestamp()))
        assert time is not None
        return time
    return datetime.now(UTC)


def _acquire(insert: Any) -> Any:
    """Return the statement of `acquire`."""
    statement = insert(Lease.__table__)
    given = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["role"],
        set_={name: given[name] for name in ("holder", "expires_at", "renewed_at", "report")},
        where=(Lease.holder == given.holder) | (Lease.expires_at < given.renewed_at),
    ).returning(Lease.holder)


# Built once: building them takes longer than running them.
_ACQUIRE = {"postgresql": _acquire(postgresql.insert), "sqlite": _acquire(sqlite.insert)}
_HELD = select(Lease.holder).where(Lease.role == bindparam("role")).with_for_update(read=True)


async def acquire(session: AsyncSession, role: str, holder: str, lease_s: float, report: dict[str, Any]) -> bool:
    """Take or renew a role.

    Args:
        session: A write transaction.
        role: The role.
        holder: The id of this process.
        lease_s: The seconds until the lease expires.
        report: Stored with the lease, for readers.

    Returns:
        Whether this process holds the role now.
    """
    time = await now(session)
    values = {
        "role": role,
        "holder": holder,
        "expires_at": time + timedelta(seconds=lease_s),
        "renewed_at": time,
        "report": report,
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
        lease.expires_at = await now(session) - timedelta(seconds=1)


async def get(session: AsyncSession, role: str) -> Lease | None:
    """The last lease of the role, or None if it was never held."""
    return await session.get(Lease, role)
