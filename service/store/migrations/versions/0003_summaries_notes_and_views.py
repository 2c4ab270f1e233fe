"""Metrics that jobs are sorted by, notes on jobs, named views."""

import json
from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

METRICS = ("test_error", "test_loss", "holdout_error", "holdout_loss", "train_error", "train_loss", "images_per_s")
CHUNK = 1000


def upgrade() -> None:
    summaries = op.create_table(
        "summaries",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("last", sa.Double(), nullable=False),
        sa.Column("best", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_summaries"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_summaries_job_id", ondelete="CASCADE"),
    )
    op.create_table(
        "views",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_views"),
        sa.UniqueConstraint("name", name="uq_views_name"),
    )
    recreate: Literal["always", "never"] = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("jobs", recreate=recreate) as jobs:
        jobs.add_column(sa.Column("notes", sa.Text(), server_default="", nullable=False))
    _fill(summaries)
    op.create_index("ix_summaries_name_last_job_id", "summaries", ["name", "last", "job_id"])
    op.create_index("ix_summaries_name_best_job_id", "summaries", ["name", "best", "job_id"])


def _fill(summaries: sa.Table) -> None:
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("id", sa.Text()), sa.column("summary", sa.Text()))
    last = ""
    while True:
        query = sa.select(jobs.c.id, sa.cast(jobs.c.summary, sa.Text())).order_by(jobs.c.id).limit(CHUNK)
        found = connection.execute(query.where(jobs.c.id > last)).all()
        rows = [
            {"job_id": job_id, "name": name, "last": entry["last"], "best": entry["best"]}
            for job_id, summary in found
            for name, entry in json.loads(summary).items()
            if name in METRICS
        ]
        if rows:
            connection.execute(sa.insert(summaries), rows)
        if len(found) < CHUNK:
            return
        last = found[-1][0]
