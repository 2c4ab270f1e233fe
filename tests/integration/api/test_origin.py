"""Requests that pages of other sites let a browser send to a service without tokens."""

from collections.abc import AsyncIterator, Mapping

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings
from tests.integration.api.test_jobs import BODY
from tests.integration.api.test_problems import assert_problem

pytestmark = pytest.mark.anyio


LOCAL = ["localhost", "LOCALHOST:8000", "localhost.:8000", "lab.localhost:8000"]
ADDRESSES = ["127.0.0.1:8000", "127.0.0.1", "[::1]:8000", "[::1]", "192.168.1.7:80"]
OTHERS = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "2130706433", "[evil.example]"]


@pytest.mark.parametrize("host", [*LOCAL, *ADDRESSES, ""])
async def test_localhost_and_addresses_are_answered(http: AsyncClient, host: str) -> None:
    answer = await http.get("/v1/jobs", headers={"Host": host})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/v1/jobs", "/metrics", "/", "/v1/specification"])
@pytest.mark.parametrize("host", [*OTHERS, "evil.example:8000"])
async def test_another_name_is_refused(http: AsyncClient, path: str, host: str) -> None:
    answer = await http.get(path, headers={"Host": host})
    assert_problem(answer, 421)
    assert repr(host.removesuffix(":8000")) in answer.json()["detail"]
    assert "NORMLAB_ALLOWED_HOSTS" in answer.json()["detail"]


PAGE_OF_ANOTHER_ORIGIN = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9999"},
    {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]
OWN_PAGE = [
    {},
    {"Origin": "http://localhost"},
    {"Origin": "https://localhost"},  # a proxy may have ended TLS
    {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", PAGE_OF_ANOTHER_ORIGIN)
async def test_a_page_of_another_origin_changes_nothing(http: AsyncClient, headers: Mapping[str, str]) -> None:
    job = (await http.post("/v1/jobs", json=BODY)).json()["id"]
    requests = [("POST", "/v1/jobs"), ("POST", f"/v1/jobs/{job}/cancel"), ("PATCH", f"/v1/jobs/{job}")]
    for method, path in [*requests, ("DELETE", f"/v1/jobs/{job}"), ("POST", "/v1/bundles")]:
        assert_problem(await http.request(method, path, json=BODY, headers=headers), 403)
    found = (await http.get(f"/v1/jobs/{job}", headers=headers)).json()
    assert found["status"] == "queued"


@pytest.mark.parametrize("headers", OWN_PAGE)
async def test_a_page_of_the_service_and_a_program_may_change(http: AsyncClient, headers: Mapping[str, str]) -> None:
    assert (await http.post("/v1/jobs", json=BODY, headers=headers)).status_code == 201


@pytest.fixture
async def proxied(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of an application behind a proxy that keeps the Host header."""
    app = create_app(Settings(home=settings.home, allowed_hosts=" Lab.Example.org, other.example"))
    async with client_of(app) as http:
        yield http


def client_of(app: FastAPI) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app), base_url="http://lab.example.org")


async def test_the_names_of_the_service_are_a_setting(proxied: AsyncClient) -> None:
    for host in ("lab.example.org", "OTHER.example:443"):
        assert (await proxied.get("/livez", headers={"Host": host})).status_code == 200
    assert_problem(await proxied.get("/livez", headers={"Host": "sub.lab.example.org"}), 421)


async def test_every_name_can_be_allowed(settings: Settings) -> None:
    async with client_of(create_app(Settings(home=settings.home, allowed_hosts="*"))) as http:
        assert (await http.get("/livez")).status_code == 200


async def test_a_token_replaces_the_checks(settings: Settings) -> None:
    app = create_app(Settings(home=settings.home, api_tokens=SecretStr("alice:alices-token")))
    headers = {"Authorization": "Bearer alices-token", "Origin": "https://proxy.example"}
    async with app.router.lifespan_context(app), client_of(app) as http:
        assert (await http.post("/v1/jobs", json=BODY, headers=headers)).status_code == 201
        assert_problem(await http.post("/v1/jobs", json=BODY, headers={"Origin": "https://proxy.example"}), 401)
