"""Views: named addresses of the dashboard, which all clients share."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import delete as delete_from
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict, NotFound
from service.store.identifiers import new_id
from service.store.tables import View

MOST = 200


async def find(session: AsyncSession) -> Sequence[View]:
    """Return all views by name."""
    return (await session.scalars(select(View).order_by(func.lower(View.name), View.id))).all()


async def create(session: AsyncSession, name: str, path: str) -> View:
    """Create a view. Raises `Conflict` if the name is taken, or if there are `MOST` views."""
    if await session.scalar(select(View.id).where(View.name == name)):
        raise Conflict(f"There is a view named {name} already: delete it first, or give another name.")
    if await session.scalar(select(func.count()).select_from(View)) >= MOST:  # type: ignore[operator]
        raise Conflict(f"There are {MOST} views, which is the maximum: delete one first.")
    view = View(id=new_id("view"), name=name, path=path, created_at=datetime.now(UTC))
    session.add(view)
    await session.flush()
    return view


async def delete(session: AsyncSession, view_id: str) -> None:
    """Delete a view. Raises `NotFound`."""
    if await session.scalar(delete_from(View).where(View.id == view_id).returning(View.id)) is None:
        raise NotFound("view", view_id)
