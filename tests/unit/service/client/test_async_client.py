"""`AsyncClient`: the methods of `Client` on an event loop, with the same requests, repeats and errors."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator

import pytest

from service.client import ApiError, AsyncClient, Client, ConnectionFailed, InvalidRequest, NotNormlab, Results
from service.client.async_experiments import AsyncExperiments
from service.client.experiments import Experiments
from service.local.private_ray import free_port
from tests.documents import blocks, read
from tests.unit.service.stand_in import CUT, Answer, StandIn, a_job, problem, running, stream

pytestmark = pytest.mark.anyio

EVENTS = "/v1/jobs/job_1/events"
END = ("", "end", {"status": "succeeded"})
FILES = {"download", "bundle", "import_bundle"}
"""The methods of the blocking client alone."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def service() -> Iterator[StandIn]:
    with running() as service:
        yield service


@pytest.fixture
async def client(service: StandIn) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.url, backoff_s=0.001, retry_s=2, patience_s=2) as client:
        yield client


@pytest.mark.parametrize(("blocking", "other"), [(Client, AsyncClient), (Experiments, AsyncExperiments)])
def test_it_has_the_methods_of_the_blocking_client(blocking: type, other: type) -> None:
    for name, method in vars(blocking).items():
        if name.startswith("_") or name in FILES:
            continue
        mirrored = inspect.signature(getattr(other, name)).parameters
        assert list(mirrored.values()) == list(inspect.signature(method).parameters.values()), name


async def test_a_submission_is_one_however_often_it_has_to_be_sent(service: StandIn, client: AsyncClient) -> None:
    service.on("POST", "/v1/jobs", CUT, problem(503, "away"), Answer(a_job(), 201))
    request = {"normalization": {"type": "group"}, "batch_size": 2}
    assert await client.submit(request) == a_job()
    sent = service.to("POST", "/v1/jobs")
    assert [one.body for one in sent] == [request] * 3
    assert len({one.headers["idempotency-key"] for one in sent}) == 1


async def test_lists_are_read_page_after_page(service: StandIn, client: AsyncClient) -> None:
    pages = [Answer({"data": [{"id": 1}, {"id": 2}], "next_cursor": "c"}), Answer({"data": [{"id": 3}]})]
    service.on("GET", "/v1/jobs", *pages)
    assert [job["id"] async for job in client.jobs(label={"study": "paper"})] == [1, 2, 3]
    assert [one.query.get("cursor") for one in service.requests] == [None, ["c"]]
    assert service.requests[0].query["label"] == ["study:paper"]
    service.on("GET", "/v1/jobs", *pages)
    assert [job["id"] async for job in client.jobs(max_jobs=2)] == [1, 2]
    assert len(service.requests) == 3


async def test_events_go_on_after_the_last_one_when_the_connection_breaks(
    service: StandIn, client: AsyncClient
) -> None:
    first = stream(("1", "status", {"status": "queued"}), ("2", "started", {"step": 0}), announced=10_000)
    service.on("GET", EVENTS, first, CUT, problem(503, ""), stream(("3", "metrics", {"step": 9}), END))
    assert [event.type async for event in client.events("job_1")] == ["status", "started", "metrics", "end"]
    assert [request.headers.get("last-event-id") for request in service.requests] == [None, "2", "2", "2"]


async def test_jobs_are_waited_for_together(service: StandIn, client: AsyncClient) -> None:
    for job in ("job_1", "job_2"):
        service.on("GET", f"/v1/jobs/{job}/events", stream(END))
        service.on("GET", f"/v1/jobs/{job}", Answer(a_job(id=job, status="succeeded")))
    ended = await asyncio.gather(client.wait("job_1"), client.wait("job_2"))
    assert [job["id"] for job in ended] == ["job_1", "job_2"]


async def test_a_wait_that_takes_too_long_leaves_the_job_running(service: StandIn, client: AsyncClient) -> None:
    service.on("GET", EVENTS, stream(("1", "log", {})))
    with pytest.raises(TimeoutError, match="keeps running"):
        await client.wait("job_1", timeout_s=0.05)


async def test_a_wait_can_be_cancelled(service: StandIn, client: AsyncClient) -> None:
    service.on("GET", EVENTS, stream(("1", "log", {})))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.wait("job_1"), 0.2)
    assert service.requests


async def test_errors_are_those_of_the_blocking_client(service: StandIn, client: AsyncClient) -> None:
    with pytest.raises(ApiError, match="There is nothing"):
        await client.job("job_1")
    with pytest.raises(ApiError, match="There is nothing"):
        await client.wait("job_1")
    service.on("GET", "/v1/cluster", Answer(b"<html>"))
    with pytest.raises(NotNormlab):
        await client.cluster()
    with pytest.raises(InvalidRequest, match="give a finite number"):
        await client.submit({"batch_size": float("nan")})
    async with AsyncClient(f"http://127.0.0.1:{free_port()}", retry_s=0) as nowhere:
        with pytest.raises(ConnectionFailed, match="No service can be reached"):
            await nowhere.ready()


async def test_experiments_are_submitted_and_their_results_read(service: StandIn, client: AsyncClient) -> None:
    service.on("POST", "/v1/experiments", Answer({"id": "experiment_1"}, 201))
    assert (await client.experiments.submit({"builtin": "labml"}))["id"] == "experiment_1"
    service.on("GET", "/v1/experiments/experiment_1/results", Answer({"cells": [], "comparisons": []}))
    found = await client.experiments.results("experiment_1", statistic="best")
    assert isinstance(found, Results)
    assert found.records("cells") == []
    assert service.requests[-1].query == {"statistic": ["best"]}
    service.on("GET", "/v1/comparison", Answer({"differences": []}))
    assert await client.experiments.compare(["a", "b"]) == {"differences": []}
    assert service.requests[-1].query == {"experiment": ["a", "b"]}
    service.on("GET", "/v1/experiments", Answer({"data": [{"id": "experiment_1"}]}))
    assert [one["id"] async for one in client.experiments.list(max_experiments=1)] == ["experiment_1"]


async def test_a_repeated_delete_succeeds_if_the_first_one_did(service: StandIn, client: AsyncClient) -> None:
    service.on("DELETE", "/v1/jobs/job_1", CUT, problem(404, "There is no job job_1."))
    await client.delete("job_1")


def test_the_example_of_the_manual_runs(
    service: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [example] = [block for block in blocks(read("service/README.md"), "python") if "AsyncClient" in block]
    service.on("POST", "/v1/jobs", Answer(a_job(), 201))
    service.on("GET", EVENTS, stream(END))
    service.on("GET", "/v1/jobs/job_1", Answer(a_job(status="succeeded", summary={"test_error": {"last": 0.25}})))
    monkeypatch.setenv("NORMLAB_URL", service.url)
    exec(example, {})
    assert capsys.readouterr().out == "[0.25, 0.25]\n"
    assert [sent.body["batch_size"] for sent in service.to("POST", "/v1/jobs")] == [2, 32]
