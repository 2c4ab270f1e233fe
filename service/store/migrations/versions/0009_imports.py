"""Imports in progress."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("experiment_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("slices", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("experiment_id", name="pk_imports"),
    )
