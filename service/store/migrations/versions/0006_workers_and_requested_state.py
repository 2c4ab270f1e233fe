"""Attempts list all their workers in one column; experiments name the state that was requested."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    recreate: Literal["always", "never"] = "always" if sqlite else "never"
    # Attempts on one worker had it in `worker` and `node` alone.
    array, entry = ("json_array", "json_object") if sqlite else ("json_build_array", "json_build_object")
    op.execute(f"UPDATE attempts SET workers = {array}({entry}('worker', worker, 'node', node)) WHERE workers IS NULL")
    with op.batch_alter_table("attempts", recreate=recreate) as attempts:
        attempts.alter_column("workers", existing_type=sa.JSON(none_as_null=True), nullable=False)
        attempts.drop_column("worker")
        attempts.drop_column("node")
    with op.batch_alter_table("experiments", recreate=recreate) as experiments:
        experiments.alter_column(
            "wish", existing_type=sa.Text(), existing_nullable=True, new_column_name="requested_state"
        )
