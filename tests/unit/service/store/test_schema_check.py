"""The report of the doctor on the schema of a database."""

import pytest

from service.store import Database, migrate
from service.store.schema_check import schema_problem

pytestmark = pytest.mark.anyio


async def test_a_schema_is_a_problem_until_it_is_migrated(empty_database_url: str) -> None:
    assert "no tables yet" in str(await schema_problem(empty_database_url))
    async with Database(empty_database_url) as database:
        await migrate.upgrade(database)
    assert await schema_problem(empty_database_url) is None
