"""The names of the tokens that submitted jobs and experiments."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

WAITING = ["status", "queued_at", "priority", "experiment_id", "not_before", "id", "num_workers"]


def upgrade() -> None:
    recreate: Literal["always", "never"] = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    op.drop_index("ix_jobs_waiting", "jobs")
    with op.batch_alter_table("jobs", recreate=recreate) as jobs:
        jobs.add_column(sa.Column("submitted_by", sa.Text(), nullable=True))
        # Made anew, SQLite's table would have the default of this one in another spelling.
        jobs.alter_column("notes", existing_type=sa.Text(), existing_nullable=False, server_default="")
    with op.batch_alter_table("experiments", recreate=recreate) as experiments:
        experiments.add_column(sa.Column("submitted_by", sa.Text(), nullable=True))
    op.create_index("ix_jobs_waiting", "jobs", [*WAITING, "submitted_by"])
    op.create_index("ix_jobs_submitted_by_created_at_id", "jobs", ["submitted_by", "created_at", "id"])
