"""Who submitted a job or an experiment: kept with it, a filter of lists, and limits on the jobs of a name."""

from typing import Any

import pytest
from httpx2 import AsyncClient
from pydantic import SecretStr

from service.settings import Settings
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import BODY
from tests.integration.api.test_problems import assert_problem
from worker.events import Failure

pytestmark = pytest.mark.anyio

ADA, BOB, EVE = ({"Authorization": f"Bearer {token}"} for token in ("open-sesame", "close-sesame", "only-looks"))
GRID = {"base": {"epochs": 1}, "grid": {"normalization": [{"type": "batch"}], "batch_size": [32], "seed": [0, 1]}}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    tokens = SecretStr("ada:open-sesame,bob:close-sesame,eve:only-looks:read")
    return Settings(home=settings.home, port=0, api_tokens=tokens)


async def submitted(http: AsyncClient, headers: dict[str, str], path: str = "/v1/jobs", body: Any = BODY) -> Any:
    answer = await http.post(path, json=body, headers=headers)
    assert answer.status_code in (201, 202), answer.text
    return answer.json()


async def ids(http: AsyncClient, path: str) -> set[str]:
    return {one["id"] for one in (await http.get(path, headers=EVE)).json()["data"]}


async def test_jobs_and_experiments_have_the_name_of_the_token(http: AsyncClient) -> None:
    job = await submitted(http, ADA)
    experiment = await submitted(http, BOB, "/v1/experiments", GRID)
    assert (job["submitted_by"], experiment["submitted_by"]) == ("ada", "bob")
    of_it = await ids(http, f"/v1/jobs?experiment={experiment['id']}")
    assert await ids(http, "/v1/jobs?submitted_by=ada") == {job["id"]}
    assert await ids(http, "/v1/jobs?submitted_by=bob") == of_it
    assert await ids(http, "/v1/jobs?submitted_by=bob&submitted_by=ada") == of_it | {job["id"]}
    assert await ids(http, "/v1/experiments?submitted_by=bob") == {experiment["id"]}
    assert await ids(http, "/v1/experiments?submitted_by=ada") == set()


async def test_a_job_that_is_added_later_has_the_name_of_who_added_it(http: AsyncClient, reporter: Reporter) -> None:
    experiment = await submitted(http, BOB, "/v1/experiments", GRID)
    path = f"/v1/experiments/{experiment['id']}"
    assert (await http.patch(path, json={"grid": {"seed": [2]}}, headers=ADA)).json()["submitted_by"] == "bob"
    [added] = await ids(http, "/v1/jobs?submitted_by=ada")
    assert (await http.get(f"/v1/jobs/{added}", headers=EVE)).json()["spec"]["seed"] == 2

    await reporter.start()
    await reporter.finish("failed", Failure(code="diverged", message="the loss is not finite", may_pass=False))
    [failed] = await ids(http, "/v1/jobs?status=failed")
    assert (await submitted(http, ADA, f"/v1/jobs/{failed}/retry", None))["submitted_by"] == "ada"


async def test_an_idempotent_repeat_answers_the_first_of_the_same_client(http: AsyncClient) -> None:
    key = {"Idempotency-Key": "one"}
    first = await submitted(http, ADA | key)
    assert (await submitted(http, ADA | key))["id"] == first["id"]
    assert (await submitted(http, BOB | key))["id"] != first["id"]


async def test_without_tokens_nobody_is_named(open_service: AsyncClient) -> None:
    assert (await submitted(open_service, {}))["submitted_by"] is None
    assert (await submitted(open_service, {}, "/v1/experiments", GRID))["submitted_by"] is None
    assert (await open_service.get("/v1/jobs?submitted_by=anonymous")).json()["data"] == []


class TestQuotas:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return Settings(home=settings.home, port=0, api_tokens=settings.api_tokens, quotas="ada:1:3,*::100")

    async def test_a_submission_beyond_the_limit_says_what_would_be_accepted_and_loses_nothing(
        self, http: AsyncClient, reporter: Reporter
    ) -> None:
        await submitted(http, ADA, "/v1/experiments", GRID)
        key = ADA | {"Idempotency-Key": "later"}
        refused = await http.post("/v1/experiments", json=GRID, headers=key)
        assert_problem(refused, 429)
        assert "the limit of this name is 3" in refused.json()["detail"]
        assert "at most 1 more now" in refused.json()["detail"]
        assert len(await ids(http, "/v1/experiments")) == 1
        await submitted(http, BOB, "/v1/experiments", GRID)
        await reporter.start()
        assert (await submitted(http, key, "/v1/experiments", GRID))["jobs"] == 2
        assert_problem(await http.post("/v1/jobs", json=BODY, headers=ADA), 429)

    async def test_a_queued_job_says_that_it_waits_for_others_of_its_name(
        self, http: AsyncClient, reporter: Reporter
    ) -> None:
        job, other = [await submitted(http, who) for who in (ADA, BOB)]
        full = {"name": "ada", "running": 1, "limit": 1}
        await reporter.heartbeat({"ray": {"status": "connected"}, "slots": {"total": 9}, "full_names": [full]})
        found = (await http.get(f"/v1/jobs/{job['id']}", headers=EVE)).json()
        assert "ada has 1 jobs that run, and the limit of this name is 1" in found["waits_for"]
        assert (await http.get(f"/v1/jobs/{other['id']}", headers=EVE)).json()["waits_for"] is None
        places = [(await http.get(f"/v1/jobs/{id_['id']}/queue", headers=EVE)).json() for id_ in (job, other)]
        assert [place["starts_in_s"] for place in places] == [None, 0]
