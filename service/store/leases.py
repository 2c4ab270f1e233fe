"""Roles that only one process may hold at a time."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from service.store.tables import Lease


class NotHeld(Exception):
    """The role went to another holder; whatever this one was about to write must not be written."""


async def now(session: AsyncSession) -> datetime:
    """The database's clock, which all holders share; SQLite's is this machine's."""
    if session.get_bind().dialect.name == "postgresql":
        time: datetime | None = await session.scalar(select(func.clock_timestamp()))
        assert time is not None
        return time
    return datetime.now(UTC)


async def acquire(session: AsyncSession, role: str, holder: str, lease_s: float, report: dict[str, Any]) -> bool:
    """Take or renew the role for `lease_s` more seconds; false where another holds it."""
    time = await now(session)
    values = {
        "holder": holder,
        "expires_at": time + timedelta(seconds=lease_s),
        "renewed_at": time,
        "report": report,
    }
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(Lease).values(role=role, **values)
    statement = statement.on_conflict_do_update(
        index_elements=["role"],
        set_=values,
        where=(Lease.holder == holder) | (Lease.expires_at < time),
    )
    taken = await session.scalar(statement.returning(Lease.holder))
    return taken == holder


async def assert_held(session: AsyncSession, role: str, holder: str) -> None:
    """Check, within the transaction that writes, that the role is still `holder`'s. Raises `NotHeld`."""
    query = select(Lease.holder).where(Lease.role == role).with_for_update(read=True)
    if await session.scalar(query) != holder:
        raise NotHeld(f"{role} is no longer held by {holder}")


async def release(session: AsyncSession, role: str, holder: str) -> None:
    """Give the role up at once, so that the next holder need not wait."""
    lease = await session.get(Lease, role, with_for_update=True)
    if lease is not None and lease.holder == holder:
        lease.expires_at = await now(session) - timedelta(seconds=1)


async def get(session: AsyncSession, role: str) -> Lease | None:
    """The role's lease, or None where nobody ever held it."""
    return await session.get(Lease, role)
