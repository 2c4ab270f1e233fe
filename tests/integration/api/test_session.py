"""The session cookie of a browser: what it permits, to whom, and for how long."""

import time

import pytest
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr

from service.api.http import sessions
from service.app import create_app
from service.settings import Settings
from tests.integration.api.test_jobs import BODY
from tests.integration.api.test_origin import PAGE_OF_ANOTHER_ORIGIN
from tests.integration.api.test_problems import assert_problem

pytestmark = pytest.mark.anyio

OWN = {"Origin": "http://localhost"}
GRID = {"base": {"epochs": 1}, "grid": {"normalization": [{"type": "batch"}], "batch_size": [32]}}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(home=settings.home, port=0, api_tokens=SecretStr("ada:open-sesame,bob:only-looks:read"))


async def signed_in(http: AsyncClient, token: str) -> None:
    assert (await http.post("/v1/session", json={"token": token}, headers=OWN)).status_code == 200


async def test_a_session_reads_and_writes_as_its_token_does(http: AsyncClient) -> None:
    assert_problem(await http.get("/v1/session"), 401)
    answer = await http.post("/v1/session", json={"token": "open-sesame"})
    assert answer.json() == {"name": "ada", "may_write": True, "share": None}
    assert (await http.get("/v1/jobs")).status_code == 200
    assert (await http.post("/v1/jobs", json=BODY, headers=OWN)).status_code == 201
    await signed_in(http, "only-looks")
    assert (await http.get("/v1/session")).json() == {"name": "bob", "may_write": False, "share": None}
    refused = await http.post("/v1/jobs", json=BODY, headers=OWN)
    assert_problem(refused, 403)
    assert "The token of bob is read-only" in refused.json()["detail"]
    assert (await http.delete("/v1/session", headers=OWN)).status_code == 204
    assert_problem(await http.get("/v1/jobs"), 401)


async def test_the_cookie_is_closed_to_scripts_other_sites_and_plain_http(http: AsyncClient) -> None:
    async def cookie(**headers: str) -> set[str]:
        answer = await http.post("/v1/session", json={"token": "open-sesame"}, headers=headers)
        return {part.strip().lower() for part in answer.headers["Set-Cookie"].split(";")[1:]}

    shared = {"httponly", "samesite=strict", "path=/", f"max-age={sessions.LASTS_S}"}
    assert await cookie(origin="http://localhost") == shared
    # A proxy ended TLS.
    assert await cookie(origin="https://localhost") == shared | {"secure"}


async def test_the_cookie_is_for_the_paths_under_the_prefix(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"root_path": "/lab"}))
    async with app.router.lifespan_context(app), AsyncClient(transport=ASGITransport(app), base_url="http://x") as http:
        answer = await http.post("/lab/v1/session", json={"token": "open-sesame"})
        assert "Path=/lab;" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("headers", [*PAGE_OF_ANOTHER_ORIGIN, {}])
async def test_a_page_of_another_origin_changes_nothing_with_the_session(
    http: AsyncClient, headers: dict[str, str]
) -> None:
    await signed_in(http, "open-sesame")
    requests = [("POST", "/v1/jobs"), ("POST", "/v1/bundles"), ("POST", "/v1/experiments?dry_run=true")]
    for method, path in requests:
        refused = await http.request(method, path, json=BODY, headers=headers)
        assert_problem(refused, 403)
        assert "another origin" in refused.json()["detail"]
    # A header with the token proves that no page of another site sent the request.
    answer = await http.post("/v1/jobs", json=BODY, headers={"Authorization": "Bearer open-sesame", **headers})
    assert answer.status_code == 201


@pytest.mark.parametrize("headers", PAGE_OF_ANOTHER_ORIGIN)
async def test_a_page_of_another_origin_neither_signs_in_nor_out(http: AsyncClient, headers: dict[str, str]) -> None:
    assert_problem(await http.post("/v1/session", json={"token": "open-sesame"}, headers=headers), 403)
    await signed_in(http, "open-sesame")
    assert_problem(await http.delete("/v1/session", headers=headers), 403)
    assert (await http.get("/v1/session")).status_code == 200


async def test_a_session_ends_with_its_time_and_with_its_token(
    http: AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed_in(http, "open-sesame")
    value = http.cookies[sessions.COOKIE]
    rotated = create_app(Settings(home=settings.home, port=0, api_tokens=SecretStr("ada:another-sesame")))
    async with AsyncClient(
        transport=ASGITransport(rotated), base_url="http://localhost", cookies={sessions.COOKIE: value}
    ) as other:
        assert_problem(await other.get("/v1/session"), 401)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + sessions.LASTS_S + 1)
    ended = await http.get("/v1/jobs", headers={"Cookie": f"{sessions.COOKIE}={value}"})
    assert_problem(ended, 401)
    assert ended.json()["detail"] == "The session has ended: sign in again."


@pytest.mark.parametrize("change", ["{later}.{signature}", "{ends}.{signature}0", ".", "", "{ends}", "{ends}.ä"])
async def test_a_forged_cookie_is_refused(http: AsyncClient, change: str) -> None:
    ends, _, signature = sessions.begin("open-sesame").partition(".")
    forged = change.format(later=int(ends) + 1, ends=ends, signature=signature)
    answer = await http.get("/v1/jobs", headers={b"Cookie": f"{sessions.COOKIE}={forged}".encode()})
    assert_problem(answer, 401)


async def test_a_dry_run_needs_a_token_that_may_read(http: AsyncClient) -> None:
    await signed_in(http, "only-looks")
    assert (await http.post("/v1/experiments?dry_run=true", json=GRID, headers=OWN)).status_code == 200
    for query in ("", "?dry_run=false"):
        assert_problem(await http.post(f"/v1/experiments{query}", json=GRID, headers=OWN), 403)


async def test_a_service_without_tokens_has_no_names_and_no_sessions(open_service: AsyncClient) -> None:
    anybody = {"name": None, "may_write": True, "share": None}
    assert (await open_service.get("/v1/session")).json() == anybody
    answer = await open_service.post("/v1/session", json={"token": "anything"})
    assert answer.json() == anybody
    assert "Set-Cookie" not in answer.headers
