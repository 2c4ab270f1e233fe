"""Jobs that start from a checkpoint of another job."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("extends", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("from_checkpoint", sa.Text(), nullable=True))
    op.create_index("ix_jobs_extends", "jobs", ["extends"])
    op.create_index("ix_jobs_from_checkpoint", "jobs", ["from_checkpoint"])
