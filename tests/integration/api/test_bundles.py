"""An experiment is exported as one file, and has the same results after its import elsewhere."""

import io
import json
import re
import tarfile
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from service.api.http import middleware
from service.app import create_app
from service.experiments import example
from service.experiments.example import ARCHIVE, unpack_example
from service.settings import Settings
from service.store import migrate
from worker.events import Failure

pytestmark = pytest.mark.anyio

TAR = {"Content-Type": "application/x-tar"}
GRID = {"normalization": [{"type": "batch"}, {"type": "group"}], "seed": [0, 1, 2]}


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A client of another installation."""
    settings = Settings(home=tmp_path / "elsewhere", port=0)
    app = create_app(settings)
    await migrate.upgrade(app.state.services.database)
    http = AsyncClient(transport=ASGITransport(app), base_url="http://elsewhere.localhost")
    async with app.router.lifespan_context(app), http:
        yield http


@pytest.fixture
async def experiment(http: AsyncClient, reporter: Any) -> str:
    """An experiment of six ended jobs, of which the last one failed."""
    body = {"name": "two norms", "base": {"batch_size": 2, "labels": {"study": "x"}}, "grid": GRID}
    made = await http.post("/v1/experiments", json=body)
    assert made.status_code == 201, made.text
    for number in range(6):
        await reporter.start()
        await reporter.log(f"line {number}")
        if number == 5:
            await reporter.finish("failed", Failure(code="diverged", message="the loss is nan", may_pass=False))
            break
        await reporter.metrics("train", 1, 5, train_loss=2.0, images_per_s=100.0 + number)
        await reporter.metrics("eval", 1, 10, test_error=0.5 + number / 100, test_loss=1.0)
        await reporter.checkpoint(1, 10, {"model.safetensors": b"w" * 100}, test_error=0.5 + number / 100)
        await reporter.finish()
    id_: str = made.json()["id"]
    return id_


async def bundle(http: AsyncClient, experiment: str, **query: str) -> bytes:
    answer = await http.get(f"/v1/experiments/{experiment}/bundle", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-tar"
    return answer.content


async def pages(http: AsyncClient, experiment: str) -> dict[str, Any]:
    """Return everything that the API shows of an experiment and its jobs."""
    seen: dict[str, Any] = {}
    for path in ("", "/results", "/results?statistic=best", "/results?statistic=median_last_5"):
        answer = await http.get(f"/v1/experiments/{experiment}{path}")
        assert answer.status_code == 200, answer.text
        seen[path] = answer.json()
    listed = (await http.get("/v1/jobs", params={"experiment": experiment, "sort": "created_at"})).json()["data"]
    for job in listed:
        seen[job["id"]] = job
        for noun in ("metrics", "logs"):
            rows = (await http.get(f"/v1/jobs/{job['id']}/{noun}")).json()["data"]
            seen[job["id"] + noun] = [{name: row[name] for name in row if name != "id"} for row in rows]
    assert len(listed) == 6
    return seen


async def test_the_results_are_the_same_on_another_installation(
    http: AsyncClient, elsewhere: AsyncClient, experiment: str
) -> None:
    taken = await elsewhere.post("/v1/bundles", content=await bundle(http, experiment), headers=TAR)

    assert taken.status_code == 201, taken.text
    assert taken.headers["location"] == f"/v1/experiments/{experiment}"
    assert await pages(elsewhere, experiment) == await pages(http, experiment)


async def test_the_bundle_holds_what_the_results_page_shows(http: AsyncClient, experiment: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(await bundle(http, experiment))) as tar:
        file = tar.extractfile("results.json")
        assert file is not None
        results = json.load(file)
        assert not [name for name in tar.getnames() if name.startswith("checkpoints/")]

    assert results == (await http.get(f"/v1/experiments/{experiment}/results")).json()


@pytest.mark.parametrize(("which", "count"), [("best", 5), ("latest", 5), ("all", 5)])
async def test_checkpoints_are_in_it_where_asked_for(
    http: AsyncClient, elsewhere: AsyncClient, experiment: str, which: str, count: int
) -> None:
    content = await bundle(http, experiment, checkpoints=which)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        names = [name for name in tar.getnames() if name.startswith("checkpoints/")]

    assert len(names) == count
    assert (await elsewhere.post("/v1/bundles", content=content, headers=TAR)).status_code == 201


async def test_the_example_is_a_finished_study_with_seeds_and_images_of_cifar10(http: AsyncClient) -> None:
    imported = await http.post("/v1/bundles/example")
    assert imported.status_code == 201, imported.text
    assert (await http.post("/v1/bundles/example")).status_code == 200
    results = (await http.get(f"{imported.headers['location']}/results")).json()

    assert results["datasets"] == ["cifar10"]
    assert {row["label"] for row in results["rows"]["values"]} >= {"batch", "group (8)"}
    assert {column["label"] for column in results["columns"]["values"]} >= {"2", "32"}
    assert all(cell["n"] >= 3 and cell["interval"] for cell in results["cells"])
    jobs = (await http.get("/v1/jobs", params={"experiment": imported.json()["id"]})).json()["data"]
    assert all(job["status"] == "succeeded" for job in jobs)


async def test_the_example_names_no_machine_and_no_folder(tmp_path: Path) -> None:
    unpack_example(tmp_path / "study.tar")
    content = (tmp_path / "study.tar").read_bytes()

    assert len(files(example).joinpath(ARCHIVE).read_bytes()) < 1 << 20
    assert not re.findall(rb"/(?:home|root|tmp|work|var)/", content)


async def test_importing_it_again_changes_nothing(http: AsyncClient, elsewhere: AsyncClient, experiment: str) -> None:
    content = await bundle(http, experiment)
    first = await elsewhere.post("/v1/bundles", content=content, headers=TAR)
    again = await elsewhere.post("/v1/bundles", content=content, headers=TAR)

    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()


async def test_an_imported_experiment_can_be_deleted(
    http: AsyncClient, elsewhere: AsyncClient, experiment: str
) -> None:
    await elsewhere.post("/v1/bundles", content=await bundle(http, experiment), headers=TAR)

    assert (await elsewhere.delete(f"/v1/experiments/{experiment}")).status_code == 204
    assert (await elsewhere.get("/v1/jobs")).json()["data"] == []


async def test_a_damaged_bundle_is_refused_with_a_sentence_and_nothing_is_stored(
    http: AsyncClient, elsewhere: AsyncClient, experiment: str
) -> None:
    content = await bundle(http, experiment)
    for damaged in (b"", b"no tar", content[:5000], content.replace(b"test_error", b"test_erroR")):
        refused = await elsewhere.post("/v1/bundles", content=damaged, headers=TAR)
        assert refused.status_code == 422
        assert refused.json()["detail"].startswith("Nothing was imported: ")
    assert (await elsewhere.get("/v1/experiments")).json()["data"] == []


async def test_an_experiment_that_runs_has_no_bundle_yet(http: AsyncClient) -> None:
    body = {"base": {"batch_size": 2}, "grid": GRID}
    made = (await http.post("/v1/experiments", json=body)).json()["id"]
    refused = await http.get(f"/v1/experiments/{made}/bundle")

    assert refused.status_code == 409
    assert "6 jobs that have not ended" in refused.json()["detail"]


async def test_there_is_no_bundle_of_what_is_not_there(http: AsyncClient) -> None:
    assert (await http.get("/v1/experiments/exp_0/bundle")).status_code == 404


async def test_a_bundle_may_be_larger_than_other_bodies_but_not_without_limit(
    app: FastAPI, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await http.post("/v1/bundles", content=bytes(2 << 20), headers=TAR)).status_code == 422
    monkeypatch.setitem(middleware.LARGE_BODIES, "/v1/bundles", 1000)
    assert (await http.post("/v1/bundles", content=bytes(1001), headers=TAR)).status_code == 413
