"""Experiments."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

PAGES = (
    ["created_at", "id"],
    ["status", "created_at", "id"],
    ["experiment_id", "created_at", "id"],
    ["normalization", "batch_size", "created_at", "id"],
    ["batch_size", "created_at", "id"],
    ["model", "created_at", "id"],
    ["priority", "id"],
)
"""The job list: what it is filtered by, then its order."""


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("request", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("wish", sa.Text(), nullable=True),
        sa.Column("deciding", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_experiments"),
    )
    op.create_index("ix_experiments_created_at", "experiments", ["created_at"])
    op.create_index("ix_experiments_deciding", "experiments", ["deciding"])
    # SQLite's own ALTER TABLE would leave another text of the table than a new database has.
    recreate: Literal["always", "never"] = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("jobs", recreate=recreate) as jobs:
        jobs.add_column(sa.Column("cell", sa.Text(), nullable=True))
        for name in ("experiment_id", "normalization", "batch_size", "created_at", "status_queued_at"):
            jobs.drop_index(f"ix_jobs_{name}")
    op.create_index("ix_jobs_waiting", "jobs", ["status", "queued_at", "priority", "experiment_id", "not_before", "id"])
    op.create_index("ix_jobs_experiment_id_status_retry_of", "jobs", ["experiment_id", "status", "retry_of"])
    for columns in PAGES:
        op.create_index(f"ix_jobs_{'_'.join(columns)}", "jobs", columns)
    first = sa.text("cell IS NOT NULL AND retry_of IS NULL")
    op.create_index(
        "uq_jobs_seed_of_cell",
        "jobs",
        ["experiment_id", "cell", "seed"],
        unique=True,
        sqlite_where=first,
        postgresql_where=first,
    )
    with op.batch_alter_table("attempts", recreate=recreate) as attempts:
        attempts.add_column(sa.Column("precision", sa.Text(), nullable=True))
    with op.batch_alter_table("idempotency", recreate=recreate) as idempotency:
        idempotency.alter_column("job_id", new_column_name="answer")
