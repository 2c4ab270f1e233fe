"""Every error is a problem detail (RFC 9457), and requests without permission are refused."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.api.http.middleware import MAX_BODY_SIZE
from service.app import create_app
from service.settings import Settings
from service.store import database, jobs
from tests.integration.api.test_jobs import BODY, submit

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}


def assert_problem(answer: Response, status: int) -> None:
    """Assert that a response is a complete problem detail."""
    problem = answer.json()
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem.keys() - {"errors"} == {"type", "title", "status", "detail", "request_id"}
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["title"]
    assert problem["detail"]


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/jobs/", "/v1/jobs/job_1/nothing", "/v1/jobs/%F0%9F%92%A9"])
async def test_what_is_not_there(http: AsyncClient, path: str) -> None:
    assert_problem(await http.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", "GET, HEAD, POST"),
        ("PUT", "/v1/jobs/job_1", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/v1/checkpoints/checkpoint_1/files/x", "GET, HEAD"),
        ("GET", "/v1/jobs/job_1/cancel", "POST"),
        ("TRACE", "/livez", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_allowed_is_refused_with_the_allowed_ones(
    http: AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await http.request(method, path)
    assert_problem(answer, 405)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("body", [b"{", b"nope", b'{"a": 1,}', b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"{} {}"])
async def test_a_body_that_is_not_json(http: AsyncClient, body: bytes) -> None:
    answer = await http.post("/v1/jobs", content=body, headers=JSON)
    if body.startswith(b"9"):
        assert answer.status_code in (400, 422)
    else:
        assert_problem(answer, 400)


@pytest.mark.parametrize("body", [b"[]", b"3", b'"text"', b"null", b""])
async def test_a_body_that_is_no_object(http: AsyncClient, body: bytes) -> None:
    assert_problem(await http.post("/v1/jobs", content=body, headers=JSON), 422)


@pytest.mark.parametrize(
    "body", [b'{"batch_size": NaN}', b'{"batch_size": 1e999}', b'{"name": "\\ud800", "zz\\udc00": 1}']
)
async def test_what_json_can_say_and_a_job_cannot_be(http: AsyncClient, body: bytes) -> None:
    assert_problem(await http.post("/v1/jobs", content=body, headers=JSON), 422)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application", "\xff", None])
async def test_a_body_of_another_kind(http: AsyncClient, kind: str | None) -> None:
    headers = {b"Content-Type": kind.encode("latin-1")} if kind else {}
    answer = await http.post("/v1/jobs", content=json.dumps(BODY).encode(), headers=headers)
    assert_problem(answer, 415)
    assert "send application/json" in answer.json()["detail"]


async def test_json_under_its_other_names_is_taken(http: AsyncClient) -> None:
    for kind in ("application/json; charset=utf-8", "application/vnd.normlab+json", "APPLICATION/JSON"):
        answer = await http.post("/v1/jobs", content=json.dumps(BODY), headers={"Content-Type": kind})
        assert answer.status_code == 201


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large(http: AsyncClient, declared: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (MAX_BODY_SIZE // 2)

    content = b" " * (MAX_BODY_SIZE + 1) if declared else chunks()
    answer = await http.post("/v1/jobs", content=content, headers=JSON)
    assert_problem(answer, 413)
    assert str(MAX_BODY_SIZE) in answer.json()["detail"]


async def test_a_body_of_just_the_size_is_read(http: AsyncClient) -> None:
    body = json.dumps(BODY).encode().ljust(MAX_BODY_SIZE)
    assert (await http.post("/v1/jobs", content=body, headers=JSON)).status_code == 201


@pytest.mark.parametrize("path", ["/v1/jobs/{job}", "/v1/jobs/{job}/checkpoints", "/v1/cluster"])
async def test_no_query_parameter_is_passed_over(http: AsyncClient, path: str) -> None:
    answer = await http.get(path.format(job=await submit(http)) + "?verbose=1")
    assert_problem(answer, 422)
    assert answer.json()["errors"][0]["parameter"] == "verbose"


@pytest.mark.parametrize("key", ["", "x" * 256, "ü"])
async def test_an_idempotency_key_that_is_none(http: AsyncClient, key: str) -> None:
    answer = await http.post("/v1/jobs", json=BODY, headers={b"Idempotency-Key": key.encode("latin-1")})
    assert_problem(answer, 422)
    assert answer.json()["errors"][0]["header"] == "Idempotency-Key"
    assert (await http.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize("given", ["mine-1.2:3_4", "a" * 128])
async def test_a_request_keeps_the_id_that_it_came_with(http: AsyncClient, given: str) -> None:
    for path in ("/livez", "/nowhere"):
        answer = await http.get(path, headers={"X-Request-ID": given})
        assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, 'x"; drop', "ü"])
async def test_a_request_is_given_an_id_where_it_has_none_to_keep(http: AsyncClient, given: str) -> None:
    answers = [await http.get("/nowhere", headers={b"X-Request-ID": given.encode("latin-1")}) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert given not in ids
    assert [answer.json()["request_id"] for answer in answers] == [a.headers["x-request-id"] for a in answers]


FULL = sqlite3.OperationalError("database or disk is full")
FULL.sqlite_errorcode = sqlite3.SQLITE_FULL


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked")), 503),
        (PoolTimeout("QueuePool limit"), 503),
        (OperationalError("INSERT", {}, FULL), 507),
    ],
)
async def test_what_the_database_cannot_do_now(
    http: AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(jobs, "create", fail)
    answer = await http.post("/v1/jobs", json=BODY)
    assert_problem(answer, status)
    assert "INSERT" not in answer.text


FROZEN_WRITER = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
database.execute("DELETE FROM jobs")
print("writing", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


async def test_a_process_that_is_stopped_within_a_transaction_delays_writes_for_a_limited_time(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    app = create_app(settings)
    client = AsyncClient(transport=ASGITransport(app), base_url="http://localhost")
    async with app.router.lifespan_context(app), client as http:
        stored = (await http.post("/v1/jobs", json=BODY)).json()["id"]
        command = [sys.executable, "-c", FROZEN_WRITER, str(settings.home / "normlab.db")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as frozen:
            try:
                assert frozen.stdout is not None
                assert await asyncio.to_thread(frozen.stdout.readline) == b"writing\n"
                assert_problem(await http.post("/v1/jobs", json=BODY), 503)
                assert (await http.get(f"/v1/jobs/{stored}")).status_code == 200, "reads do not wait"
            finally:
                frozen.kill()
        assert (await http.post("/v1/jobs", json=BODY)).status_code == 201
        assert (await http.get("/v1/jobs")).json()["data"][1]["id"] == stored


TOKENS = "alice:alices-token,bob:bobs-token:read"


@pytest.fixture
async def closed(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of an application that requires tokens."""
    app = create_app(Settings(home=settings.home, api_tokens=SecretStr(TOKENS)))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as http,
    ):
        yield http


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


ALICE, BOB = bearer("alices-token"), bearer("bobs-token")


def v1_operations(app: FastAPI) -> list[tuple[str, str]]:
    """Return every method and path that needs a token, with ids that do not exist."""
    nouns = ("job", "checkpoint", "experiment", "evaluation", "view", "share")
    ids = {f"{noun}_id": f"{noun}_1" for noun in nouns} | {"format": "svg", "name": "x", "which": "best"}
    found = []
    for path, methods in app.openapi()["paths"].items():
        if path.startswith("/v1/") and path not in ("/v1/specification", "/v1/session"):
            filled = path.format_map(ids)
            found += [(method.upper(), filled) for method in methods]
    return found


async def test_without_a_token_nothing_under_v1_answers(app: FastAPI, closed: AsyncClient) -> None:
    operations = v1_operations(app)
    assert len(operations) >= 15
    for headers in ({}, bearer("wrong-token"), bearer("alices-token2"), bearer("Ä"), {"Authorization": "Basic YTpi"}):
        for method, path in operations:
            encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
            answer = await closed.request(method, path, headers=encoded)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            if method != "HEAD":
                assert_problem(answer, 401)


async def test_a_token_that_reads_does_not_write(app: FastAPI, closed: AsyncClient) -> None:
    for method, path in v1_operations(app):
        # Whether an experiment is only planned is read with its body.
        body = {"builtin": "paper-norms"} if path == "/v1/experiments" else None
        answer = await closed.request(method, path, headers=BOB, json=body)
        if method in ("GET", "HEAD"):
            assert answer.status_code in (200, 404, 422), (method, path)
        else:
            assert_problem(answer, 403)
            assert "bob" in answer.json()["detail"]


async def test_a_token_that_writes_does_both(closed: AsyncClient) -> None:
    answer = await closed.post("/v1/jobs", json=BODY, headers=ALICE)
    assert answer.status_code == 201
    assert (await closed.get(answer.headers["location"], headers=ALICE)).status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/openapi.json", "/docs", "/v1/specification"])
async def test_what_needs_no_token(closed: AsyncClient, path: str) -> None:
    assert (await closed.get(path)).status_code == 200


async def test_readiness_needs_no_token(closed: AsyncClient) -> None:
    assert (await closed.get("/readyz")).json()["checks"]["database"]["ok"]


async def test_idempotency_keys_are_each_clients_own(settings: Settings) -> None:
    app = create_app(Settings(home=settings.home, api_tokens=SecretStr("alice:alices-token,carol:carols-token")))
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as http,
    ):
        made = {
            (await http.post("/v1/jobs", json=BODY, headers=bearer(token) | {"Idempotency-Key": "k"})).json()["id"]
            for token in ("alices-token", "carols-token", "alices-token")
        }
    assert len(made) == 2


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/experiments"])
async def test_of_many_invalid_fields_some_are_listed(http: AsyncClient, path: str) -> None:
    """Explaining each of them once took minutes, in which the service did not answer."""
    many = {f"k{number}": 0 for number in range(20_000)}
    answer = await http.post(path, json={"base": many, "grid": {"seed": list(range(1000))}, **many})
    assert_problem(answer, 422)
    assert len(answer.json()["errors"]) == 50
    answer = await http.post("/v1/experiments", json={"base": many, "grid": {"seed": list(range(1000))}})
    assert_problem(answer, 422)
    assert answer.json()["detail"] == "At least 100 fields are not valid."
    assert len(answer.json()["errors"]) == 50


@pytest.mark.parametrize("labels", [{"a\0": "x"}, {"a": "x\0"}, {"a\ud800": "x"}])
async def test_a_label_that_a_database_would_change_is_refused(http: AsyncClient, labels: dict[str, str]) -> None:
    job = await submit(http)
    for answer in (
        await http.post("/v1/jobs", content=json.dumps(BODY | {"labels": labels}), headers=JSON),
        await http.patch(f"/v1/jobs/{job}", content=json.dumps({"labels": labels}), headers=JSON),
    ):
        assert_problem(answer, 422)
