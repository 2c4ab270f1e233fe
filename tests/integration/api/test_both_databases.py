"""The parts of the API that depend on the database, on SQLite and on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr

from service.app import create_app
from service.artifacts import LocalArtifacts
from service.settings import Settings
from service.store import Database
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import BODY, submit

pytestmark = pytest.mark.anyio

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(home=tmp_path / "home", database_url=SecretStr(database_url))


@pytest.fixture
async def replicas(settings: Settings) -> AsyncIterator[list[FastAPI]]:
    apps = [create_app(settings) for _ in range(2)]
    async with apps[0].router.lifespan_context(apps[0]), apps[1].router.lifespan_context(apps[1]):
        yield apps


@pytest.fixture
async def clients(replicas: list[FastAPI]) -> AsyncIterator[list[AsyncClient]]:
    transports = [ASGITransport(app) for app in replicas]
    async with (
        AsyncClient(transport=transports[0], base_url="http://one.localhost") as one,
        AsyncClient(transport=transports[1], base_url="http://two.localhost") as two,
    ):
        yield [one, two]


@pytest.fixture
def reporter(database_url: str, settings: Settings, clients: list[AsyncClient]) -> Reporter:
    return Reporter(Database(database_url), LocalArtifacts(Path(settings.artifacts)))


async def test_a_key_given_to_two_replicas_at_once_makes_one_job(clients: list[AsyncClient]) -> None:
    for key in ("a", "b", "c"):
        answers = await asyncio.gather(
            *(clients[i % 2].post("/v1/jobs", json=BODY, headers={"Idempotency-Key": key}) for i in range(8))
        )
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 1
    assert len((await clients[0].get("/v1/jobs")).json()["data"]) == 3


async def test_a_stream_of_each_replica_has_every_event_once(clients: list[AsyncClient], reporter: Reporter) -> None:
    async with reporter.database:
        job = await submit(clients[0])
        streams = [
            asyncio.create_task(http.get(f"/v1/jobs/{job}/events", headers=STREAM, timeout=120)) for http in clients * 3
        ]
        await reporter.start()
        for step in (10, 20):
            await reporter.metrics("eval", step // 10, step, test_error=float("nan"))
            await reporter.progress(step, train_loss=float("inf"))
            await reporter.log(f"nul \0 and half a pair \ud800 at {step}")
        await reporter.finish()
        answers = await asyncio.wait_for(asyncio.gather(*streams), 120)
        page = (await clients[1].get(f"/v1/jobs/{job}/events")).json()["data"]
        for answer in answers:
            ids = [int(line[4:]) for line in answer.text.splitlines() if line.startswith("id: ")]
            assert ids == [event["id"] for event in page]
            assert answer.text.endswith('event: end\ndata: {"status": "succeeded"}\n\n')


async def test_every_filter_order_and_search_is_understood(clients: list[AsyncClient], reporter: Reporter) -> None:
    async with reporter.database:
        job = await submit(clients[0], name="100% Ähre", labels={"study": "paper"}, seed=2**63 - 1)
        await submit(clients[0], batch_size=32)
        await reporter.start()
        await reporter.log("Straße 7", "warning")
        for query in (
            "search=100%25",
            "label=study:paper&label=study:other",
            f"seed={2**63 - 1}",
            "batch_size=2&model=resnet20&normalization=group&status=running",
        ):
            found = (await clients[1].get(f"/v1/jobs?{query}")).json()["data"]
            assert [entry["id"] for entry in found] == [job], query
        for sort in ("created_at", "-updated_at", "batch_size", "-priority", "name", "status", "-model"):
            first = (await clients[0].get(f"/v1/jobs?limit=1&sort={sort}")).json()
            second = (await clients[1].get(f"/v1/jobs?limit=1&sort={sort}&cursor={first['next_cursor']}")).json()
            assert second["next_cursor"] is None
            assert {first["data"][0]["id"], second["data"][0]["id"]} > {job}
        lines = (await clients[0].get(f"/v1/jobs/{job}/logs?level=warning&search=stra")).json()["data"]
        assert [line["message"] for line in lines] == ["Straße 7"]


async def test_health_and_the_cluster_are_served(clients: list[AsyncClient], reporter: Reporter) -> None:
    async with reporter.database:
        await reporter.heartbeat({"ray": {"status": "connected", "address": "a:1"}})
        assert (await clients[0].get("/readyz")).json()["status"] == "ready"
        assert (await clients[1].get("/v1/cluster")).json()["dispatcher"]["alive"] is True
        assert "normlab_database_up 1.0" in (await clients[0].get("/metrics")).text


async def test_an_experiment_is_made_once_and_has_results(clients: list[AsyncClient], reporter: Reporter) -> None:
    async with reporter.database:
        grid = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [2], "seed": [0, 1]}
        body = {"name": "Größe", "grid": grid}
        answers = await asyncio.gather(
            *(clients[i % 2].post("/v1/experiments", json=body, headers={"Idempotency-Key": "k"}) for i in range(6))
        )
        assert {answer.status_code for answer in answers} == {201}
        (id_,) = {answer.json()["id"] for answer in answers}
        for number in range(4):
            await reporter.start()
            await reporter.metrics("eval", 1, 10, test_error=0.1 * number)
            await reporter.metrics("train", 1, 10, images_per_s=10.0 * number)
            await reporter.finish()
        path = f"/v1/experiments/{id_}"
        assert (await clients[1].get(path)).json()["status"] == "finished"
        first, second = [(await http.get(f"{path}/results")).json() for http in clients]
        assert first == second
        assert [cell["n"] for cell in first["cells"]] == [2, 2]
        at_a_step = (await clients[0].get(f"{path}/results?statistic=at_step&step=10")).json()
        assert [cell["mean"] for cell in at_a_step["cells"]] == [cell["mean"] for cell in first["cells"]]
        assert [entry["id"] for entry in (await clients[0].get("/v1/experiments?search=gr%C3%B6")).json()["data"]] == [
            id_
        ]
        preview = (await clients[1].post("/v1/experiments?dry_run=true", json=body)).json()
        assert preview["cost"]["device_s"] > 0
        assert (await clients[0].delete(path)).status_code == 204
        assert (await clients[1].get("/v1/jobs")).json()["data"] == []
