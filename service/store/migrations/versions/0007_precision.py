"""Jobs and experiments record their precision, which the precision `auto` of a spec leaves open."""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    recreate: Literal["always", "never"] = "always" if sqlite else "never"
    with op.batch_alter_table("jobs", recreate=recreate) as jobs:
        jobs.add_column(sa.Column("precision", sa.Text(), nullable=True))
        # Made anew, SQLite's table would have the default of this one in another spelling.
        jobs.alter_column("notes", existing_type=sa.Text(), existing_nullable=False, server_default="")
    with op.batch_alter_table("experiments", recreate=recreate) as experiments:
        experiments.add_column(sa.Column("precision", sa.Text(), nullable=True))
    requested = "json_extract(spec, '$.precision')" if sqlite else "spec ->> 'precision'"
    op.execute(f"UPDATE jobs SET precision = {requested} WHERE {requested} IN ('float32', 'bfloat16')")
    # Attempts on a CPU computed in float32 unless the spec named another precision, also before they recorded it.
    op.execute(
        "UPDATE jobs SET precision = (SELECT coalesce(attempts.precision, 'float32') FROM attempts "
        "WHERE attempts.job_id = jobs.id AND (attempts.precision IS NOT NULL OR attempts.device = 'cpu') "
        "ORDER BY attempts.number DESC LIMIT 1) WHERE precision IS NULL"
    )
    op.execute(
        "UPDATE experiments SET precision = (SELECT max(jobs.precision) FROM jobs "
        f"WHERE jobs.experiment_id = experiments.id AND coalesce({requested}, 'auto') = 'auto')"
    )
