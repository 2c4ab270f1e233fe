"""HEAD is answered wherever GET is, as load balancers and uptime probes expect: the same headers, and no body."""

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from tests.integration.api.conftest import Listening
from tests.integration.api.test_jobs import submit

pytestmark = pytest.mark.anyio

DIFFERENT = {"x-request-id", "date"}
VARYING = {"/metrics", "/readyz", "/v1/cluster"}
"""Their bodies differ from one request to the next."""


async def test_every_document_has_the_headers_of_its_get(app: FastAPI, http: AsyncClient) -> None:
    known = {"job_id": await submit(http), "experiment_id": "experiment_1", "checkpoint_id": "checkpoint_1"}
    known |= {"evaluation_id": "evaluation_1", "format": "svg", "name": "x", "which": "best", "view_id": "view_1"}
    described = [path.format_map(known) for path, methods in app.openapi()["paths"].items() if "get" in methods]
    for path in [*described, "/", "/jobs/job_1", "/docs", "/openapi.json", "/assets/x/app.js", "/vendor/x", "/nowhere"]:
        get, head = await http.get(path), await http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        ignored = DIFFERENT | ({"content-length"} if path in VARYING else set())
        assert {name: value for name, value in head.headers.items() if name not in ignored} == {
            name: value for name, value in get.headers.items() if name not in ignored
        }, path


async def test_a_server_sends_no_body_and_a_stream_ends(listen: Callable[[], Listening]) -> None:
    listening = listen()
    services = listening.server.config.app.state.services  # type: ignore[union-attr]
    async with AsyncClient(base_url=listening.url) as http:
        for _ in range(2):
            live = await http.head("/livez")
            assert (live.status_code, live.headers["content-length"], live.content) == (200, "17", b"")
        stream = await http.head("/v1/events", headers={"Accept": "text/event-stream"})
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.content == b""
        counted = (await http.get("/metrics")).text
    assert len(services.tailer) == 0
    assert 'normlab_http_requests_total{method="HEAD",route="/livez",status="200"} 2.0' in counted
