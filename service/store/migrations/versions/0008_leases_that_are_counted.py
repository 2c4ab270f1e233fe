"""Leases count their renewals, instead of a time at which they expire."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    recreate: Literal["always", "never"] = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    # A lease from before counts as released: a dispatcher of the earlier version cannot renew it any longer.
    with op.batch_alter_table("leases", recreate=recreate) as leases:
        leases.add_column(sa.Column("beats", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        leases.add_column(sa.Column("lease_s", sa.Double(), server_default=sa.text("0"), nullable=False))
        leases.drop_column("expires_at")
