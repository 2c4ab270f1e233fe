"""CPU time and memory of attempts, the size of checkpoints, and those that retention has removed."""

import json
from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    connection = op.get_bind()
    recreate: Literal["always", "never"] = "always" if connection.dialect.name == "sqlite" else "never"
    with op.batch_alter_table("attempts", recreate=recreate) as attempts:
        attempts.add_column(sa.Column("cpu_s", sa.Double(), nullable=True))
        attempts.add_column(sa.Column("peak_memory_bytes", sa.BigInteger(), nullable=True))
        attempts.add_column(sa.Column("peak_gpu_memory_bytes", sa.BigInteger(), nullable=True))
    with op.batch_alter_table("checkpoints", recreate=recreate) as checkpoints:
        checkpoints.add_column(sa.Column("size", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    sizes = []
    for id_, files in connection.execute(sa.text("SELECT id, files FROM checkpoints")).all():
        described = json.loads(files) if isinstance(files, str) else files
        sizes.append({"id": id_, "size": sum(file["size"] for file in described.values())})
    if sizes:
        connection.execute(sa.text("UPDATE checkpoints SET size = :size WHERE id = :id"), sizes)
    op.create_table(
        "removed_checkpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_removed_checkpoints_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_removed_checkpoints"),
    )
    op.create_index("ix_removed_checkpoints_job_id", "removed_checkpoints", ["job_id"])
