"""Jobs on several workers."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

WAITING = ["status", "queued_at", "priority", "experiment_id", "not_before", "id"]


def upgrade() -> None:
    recreate: Literal["always", "never"] = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    op.drop_index("ix_jobs_waiting", "jobs")
    with op.batch_alter_table("jobs", recreate=recreate) as jobs:
        # What was queued before could ask for one worker only.
        jobs.add_column(sa.Column("num_workers", sa.Integer(), server_default=sa.text("1"), nullable=False))
        # Made anew, SQLite's table would have the default of this one in another spelling.
        jobs.alter_column("notes", existing_type=sa.Text(), existing_nullable=False, server_default="")
    op.create_index("ix_jobs_waiting", "jobs", [*WAITING, "num_workers"])
    with op.batch_alter_table("attempts", recreate=recreate) as attempts:
        attempts.add_column(sa.Column("workers", sa.JSON(none_as_null=True), nullable=True))
