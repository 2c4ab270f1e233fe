"""Counters for Prometheus."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", "label", name="pk_counters"),
    )
    connection = op.get_bind()
    ended = connection.execute(
        sa.text("SELECT outcome, count(*) FROM attempts WHERE outcome IS NOT NULL GROUP BY outcome")
    )
    rows = [{"name": "attempts_ended", "label": outcome, "value": count} for outcome, count in ended]
    stored = 0
    for files in connection.execute(sa.text("SELECT files FROM checkpoints")).scalars():
        described = json.loads(files) if isinstance(files, str) else files
        stored += sum(file["size"] for file in described.values())
    rows.append({"name": "checkpoint_bytes", "label": "written", "value": stored})
    op.bulk_insert(counters, rows)
