"""The utilization of the GPU of attempts."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    recreate: Literal["always", "never"] = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("attempts", recreate=recreate) as attempts:
        attempts.add_column(sa.Column("gpu_utilization", sa.Double(), nullable=True))
