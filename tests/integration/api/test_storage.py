"""What the checkpoints take, over HTTP."""

import pytest
from httpx2 import AsyncClient

from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import submit
from tests.integration.api.test_problems import assert_problem

pytestmark = pytest.mark.anyio

PATH = "/v1/storage"
GRID = {
    "name": "study",
    "base": {"epochs": 1, "dataset": {"name": "synthetic"}},
    "grid": {"normalization": [{"type": "batch"}], "batch_size": [32]},
}


async def test_experiments_and_jobs_are_listed_by_what_they_take(http: AsyncClient, reporter: Reporter) -> None:
    experiment = (await http.post("/v1/experiments", json=GRID)).json()["id"]
    of_it = await reporter.start()
    await reporter.checkpoint(1, 10, {"state.pt": b"x" * 200, "manifest.json": b"{}"})
    await reporter.checkpoint(1, 20, {"state.pt": b"x" * 100})
    await reporter.finish()
    alone = await submit(http, name="alone")
    await reporter.start()
    await reporter.checkpoint(1, 10, {"state.pt": b"x" * 50})

    found = (await http.get(PATH)).json()
    assert found.pop("free_bytes") > 0
    assert found == {
        "checkpoints": 3,
        "bytes": 352,
        "experiments": [
            {"id": experiment, "title": "study [synthetic]", "jobs": 1, "checkpoints": 2, "bytes": 302},
            {"id": None, "title": None, "jobs": 1, "checkpoints": 1, "bytes": 50},
        ],
        "jobs": [
            {
                "id": of_it,
                "title": (await http.get(f"/v1/jobs/{of_it}")).json()["title"],
                "experiment": experiment,
                "status": "succeeded",
                "checkpoints": 2,
                "bytes": 302,
            },
            {
                "id": alone,
                "title": "alone",
                "experiment": None,
                "status": "running",
                "checkpoints": 1,
                "bytes": 50,
            },
        ],
    }
    short = (await http.get(f"{PATH}?limit=1")).json()
    assert (short["bytes"], len(short["experiments"]), len(short["jobs"])) == (352, 1, 1)
    narrow = (await http.get(f"{PATH}?experiment={experiment}")).json()
    assert [job["id"] for job in narrow["jobs"]] == [of_it]


async def test_what_cannot_be_listed_is_refused(http: AsyncClient) -> None:
    assert_problem(await http.get(f"{PATH}?limit=0"), 422)
    assert_problem(await http.get(f"{PATH}?experiment=exp_0"), 404)
    assert_problem(await http.get(f"{PATH}?job=job_0"), 422)
    empty = (await http.get(PATH)).json()
    assert (empty["checkpoints"], empty["bytes"], empty["experiments"], empty["jobs"]) == (0, 0, [], [])
