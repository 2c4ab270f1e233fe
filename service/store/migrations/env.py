"""The environment of Alembic, which migrates the connection that `service.store.migrate` provides."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import TypeDecorator

from service.store.tables import Table


def _render(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """A revision names what a column is in the database: our own types may change after it was written."""
    return f"sa.{item.impl_instance!r}" if isinstance(item, TypeDecorator) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,
    render_item=_render,
)
with context.begin_transaction():
    context.run_migrations()
