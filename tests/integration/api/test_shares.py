"""The link of a share shows one experiment and its jobs, and nothing else."""

import re
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr

from service.api import routes
from service.app import create_app
from service.settings import Settings
from service.store import Database, shares
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_problems import assert_problem
from worker.events import Failure

pytestmark = pytest.mark.anyio

ADA, EVE = ({"Authorization": f"Bearer {token}"} for token in ("open-sesame", "only-looks"))
BASE = {"epochs": 1, "labels": {"institute": "atlantis"}}
GRID = {"name": "study", "base": BASE, "grid": {"normalization": [{"type": "batch"}], "batch_size": [32]}}
PUBLIC = {"/v1/specification", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs"}
"""Routes that need no token."""
PAGES = {"/", "/jobs", "/jobs/{id}", "/compare", "/explore", "/experiments", "/experiments/{id}", "/new", "/cluster"}
PAGES |= {"/assets/{release}/{name:path}", "/vendor/{name}"}
"""The files of the dashboard, which need no token."""
SHOWN = {
    "GET /v1/session",
    "GET /v1/experiments/{experiment_id}",
    "GET /v1/experiments/{experiment_id}/results",
    "GET /v1/experiments/{experiment_id}/report",
    "GET /v1/experiments/{experiment_id}/figure.{format}",
    "GET /v1/experiments/{experiment_id}/curves.{format}",
    "GET /v1/jobs",
    "GET /v1/jobs/{job_id}",
    "GET /v1/jobs/{job_id}/metrics",
    "GET /v1/curves",
    "GET /v1/curves.{format}",
}
"""What a link shows, of its own experiment."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    tokens = SecretStr("ada:open-sesame,eve:only-looks:read")
    return Settings(home=settings.home, port=0, api_tokens=tokens)


async def submit(http: AsyncClient) -> tuple[str, str]:
    """Submit an experiment of one job. Returns the ids of both."""
    experiment = (await http.post("/v1/experiments", json=GRID, headers=ADA)).json()["id"]
    [job] = (await http.get(f"/v1/jobs?experiment={experiment}", headers=ADA)).json()["data"]
    return experiment, job["id"]


async def share(http: AsyncClient, experiment: str, **given: Any) -> dict[str, Any]:
    answer = await http.post(f"/v1/experiments/{experiment}/shares", json=given, headers=ADA)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


def bearer(created: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {created['token']}"}


async def run(reporter: Reporter, *, failed: bool = False) -> None:
    """Run the next job."""
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.25)
    failure = Failure(code="exception", message="no file /home/ada/x", may_pass=False)
    await (reporter.finish("failed", failure) if failed else reporter.finish())


async def test_every_route_is_refused_but_those_of_the_experiment(
    app: FastAPI, http: AsyncClient, reporter: Reporter
) -> None:
    (experiment, job), (other, of_other) = await submit(http), await submit(http)
    await run(reporter)
    await reporter.start()
    checkpoint = await reporter.checkpoint(1, 10, {"model.safetensors": b"x"}, test_error=0.5)
    link = bearer(await share(http, experiment))
    own = {"experiment_id": experiment, "job_id": job, "checkpoint_id": checkpoint, "format": "svg"}
    own |= {"which": "latest", "name": "model.safetensors", "evaluation_id": "evaluation_1", "view_id": "view_1"}
    own |= {"share_id": "share_1"}
    foreign = own | {"experiment_id": other, "job_id": of_other}
    queries = {"/v1/jobs": "?experiment={experiment_id}", "/v1/curves": "?job={job_id}"}
    queries["/v1/curves.{format}"] = queries["/v1/curves"]
    seen = set()
    routers = (*routes.PROTECTED, *routes.OPEN)
    assert len(app.routes) == len(routers), "every route is in one of the routers"
    for route in (route for router in routers for route in router.routes):
        assert isinstance(route, APIRoute), route
        if route.path in PUBLIC | PAGES:
            continue
        for method in route.methods or ():
            if (route.path, method) in {("/v1/session", "POST"), ("/v1/session", "DELETE")}:
                continue
            template = route.path + queries.get(route.path, "")
            answers = [
                await http.request(method, template.format_map(ids), headers=link, json=None if method == "GET" else {})
                for ids in (own, foreign)
            ]
            if f"{method} {route.path}" in SHOWN:
                seen.add(f"{method} {route.path}")
                assert answers[0].status_code == 200, (route.path, answers[0].text)
                answers = answers[1:] if "{" in template else []
            for answer in answers:
                assert answer.status_code == 403, (method, route.path, answer.status_code, answer.text)
                assert method == "HEAD" or f"This link shows experiment {experiment}" in answer.json()["detail"]
    assert seen == SHOWN


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?experiment={experiment}&experiment={other}",
        "?experiment={experiment}&label=institute:atlantis",
        "?experiment={experiment}&submitted_by=ada",
        "?status=queued",
    ],
)
async def test_jobs_are_listed_of_the_experiment_alone_and_without_probing_names(http: AsyncClient, query: str) -> None:
    (experiment, _), (other, _) = await submit(http), await submit(http)
    link = bearer(await share(http, experiment))
    assert_problem(await http.get("/v1/jobs" + query.format(experiment=experiment, other=other), headers=link), 403)


async def test_curves_of_a_foreign_job_are_refused_beside_an_own_one(http: AsyncClient) -> None:
    (experiment, job), (_, of_other) = await submit(http), await submit(http)
    link = bearer(await share(http, experiment))
    assert (await http.get(f"/v1/curves?job={job}&job={job}", headers=link)).status_code == 200
    for foreign in (of_other, "job_of_nobody"):
        assert_problem(await http.get(f"/v1/curves?job={job}&job={foreign}", headers=link), 403)
        assert_problem(await http.get(f"/v1/jobs/{foreign}", headers=link), 403)


async def test_an_anonymous_link_tells_no_label_by_a_table_or_an_order(http: AsyncClient, reporter: Reporter) -> None:
    experiment, _ = await submit(http)
    await run(reporter)
    named, unnamed = [bearer(await share(http, experiment, anonymous=hidden)) for hidden in (False, True)]
    for path, query in (
        (f"/v1/experiments/{experiment}/results", {"rows": "labels.institute"}),
        (f"/v1/experiments/{experiment}/results", {"where": "labels.institute:atlantis"}),
        (f"/v1/experiments/{experiment}/figure.csv", {"columns": "labels.institute"}),
        ("/v1/jobs", {"experiment": experiment, "sort": "-labels.institute"}),
    ):
        assert (await http.get(path, params=query, headers=named)).status_code == 200, path
        refused = await http.get(path, params=query, headers=unnamed)
        assert refused.status_code == 403
        assert "This link hides labels" in refused.json()["detail"]


async def test_an_anonymous_link_names_nobody(http: AsyncClient, reporter: Reporter) -> None:
    experiment, job = await submit(http)
    await http.patch(f"/v1/jobs/{job}", json={"notes": "for atlantis"}, headers=ADA)
    await run(reporter, failed=True)
    paths = [f"/v1/experiments/{experiment}", f"/v1/jobs/{job}", f"/v1/jobs?experiment={experiment}"]
    paths += [f"/v1/experiments/{experiment}/{part}" for part in ("results", "report")]
    named, unnamed = [bearer(await share(http, experiment, anonymous=hidden)) for hidden in (False, True)]
    telling = re.compile(r"\bada\b|atlantis|node-1|worker-1", re.IGNORECASE)
    told = [bool(telling.search((await http.get(path, headers=named)).text)) for path in paths]
    assert told == [True, True, True, False, True]
    for path in paths:
        answer = await http.get(path, headers=unnamed)
        assert answer.status_code == 200
        assert telling.findall(answer.text) == [], path
    session = (await http.get("/v1/session", headers=unnamed)).json()
    assert (session["name"], session["may_write"]) == (None, False)
    assert session["share"] == {"experiment": experiment, "anonymous": True, "expires_at": None}


async def test_a_link_works_until_it_is_revoked_or_its_experiment_is_deleted(http: AsyncClient) -> None:
    experiment, job = await submit(http)
    path = f"/v1/experiments/{experiment}"
    first, second = await share(http, experiment), await share(http, experiment, anonymous=True)
    listed = (await http.get(f"{path}/shares", headers=EVE)).json()["data"]
    assert [(one["id"], one["anonymous"], one["created_by"]) for one in listed] == [
        (second["id"], True, "ada"),
        (first["id"], False, "ada"),
    ]
    assert not {"token", "path", "token_sha256"} & set(listed[0])
    assert first["path"] == f"/experiments/{experiment}#share={first['token']}"
    assert (await http.delete(f"{path}/shares/{first['id']}", headers=ADA)).status_code == 204
    assert_problem(await http.delete(f"{path}/shares/{first['id']}", headers=ADA), 404)
    assert_problem(await http.get(path, headers=bearer(first)), 401)
    assert (await http.get(path, headers=bearer(second))).status_code == 200
    await http.post(f"/v1/jobs/{job}/cancel", headers=ADA)
    assert (await http.delete(path, headers=ADA)).status_code == 204
    assert_problem(await http.get(path, headers=bearer(second)), 401)


async def test_a_link_ends_at_its_time(http: AsyncClient, database: Database) -> None:
    experiment, _ = await submit(http)
    created = await share(http, experiment, expires_in_s=3600)
    assert (await http.get(f"/v1/experiments/{experiment}", headers=bearer(created))).status_code == 200
    async with database.write() as session:
        [stored] = await shares.of_experiment(session, experiment)
        assert stored.expires_at is not None
        stored.expires_at -= timedelta(hours=2)
    assert_problem(await http.get(f"/v1/experiments/{experiment}", headers=bearer(created)), 401)
    assert created["token"] not in {value for value in vars(stored).values() if isinstance(value, str)}


async def test_a_read_only_token_and_a_link_make_no_links(http: AsyncClient) -> None:
    experiment, _ = await submit(http)
    path = f"/v1/experiments/{experiment}/shares"
    created = await share(http, experiment)
    for headers in (EVE, bearer(created)):
        assert_problem(await http.post(path, json={}, headers=headers), 403)
        assert_problem(await http.delete(f"{path}/{created['id']}", headers=headers), 403)
    answer = await http.post("/v1/session", json={"token": created["token"]})
    assert_problem(answer, 401)
    assert_problem(await http.post("/v1/experiments/experiment_1/shares", json={}, headers=ADA), 404)


async def test_what_a_link_shows_is_not_kept_and_names_no_referrer(http: AsyncClient) -> None:
    experiment, _ = await submit(http)
    link = bearer(await share(http, experiment))
    for path in ("", "/report", "/results"):
        answer = await http.get(f"/v1/experiments/{experiment}{path}", headers=link)
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Robots-Tag"] == "noindex"
    assert "X-Robots-Tag" not in (await http.get("/v1/jobs", headers=ADA)).headers


async def test_a_service_without_tokens_has_nothing_to_hide(settings: Settings) -> None:
    app = create_app(Settings(home=settings.home, port=0))
    transport = ASGITransport(app)
    async with app.router.lifespan_context(app), AsyncClient(transport=transport, base_url="http://localhost") as http:
        experiment, _ = await submit(http)
        answer = await http.post(f"/v1/experiments/{experiment}/shares", json={})
        assert_problem(answer, 409)
        assert "set NORMLAB_API_TOKENS" in answer.json()["detail"]
