"""The log of the webhook."""

import pytest
from httpx2 import AsyncClient

from service.store import Database, deliveries
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import BODY
from tests.integration.api.test_problems import assert_problem

pytestmark = pytest.mark.anyio

PATH = "/v1/webhook/deliveries"


async def test_deliveries_are_listed_newest_first_in_pages(
    http: AsyncClient, database: Database, reporter: Reporter
) -> None:
    assert (await http.get(PATH)).json() == {"data": [], "next_cursor": None}
    async with database.write() as session:
        await deliveries.collect(session)
    for _ in range(3):
        await http.post("/v1/jobs", json=BODY)
        await reporter.start()
        await reporter.finish()
    async with database.write() as session:
        await deliveries.collect(session)
        first, *_ = await deliveries.due(session, 10)
        await deliveries.record(session, first.id, 500, "the receiver answered 500")
        await deliveries.record(session, first.id, 200, None)
    page = (await http.get(f"{PATH}?limit=2")).json()
    rest = (await http.get(f"{PATH}?limit=2&cursor={page['next_cursor']}")).json()
    assert rest["next_cursor"] is None
    ids = [one["id"] for one in page["data"] + rest["data"]]
    assert ids == sorted(set(ids), reverse=True)
    assert len(ids) == 3
    [delivered] = (await http.get(f"{PATH}?status=delivered")).json()["data"]
    assert (delivered["tries"], delivered["answer"], delivered["error"]) == (2, 200, None)
    assert delivered["body"]["data"]["job"] == delivered["subject"]
    assert_problem(await http.get(f"{PATH}?status=lost"), 422)
