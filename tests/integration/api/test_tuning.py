"""A tuned experiment over HTTP: its dry run, its search, its two tables, and its copy on another service."""

import csv
import io
from typing import Any

import pytest
from httpx2 import AsyncClient

from service.dispatcher import seeding
from service.store import Database
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_experiments import BODY, GRID, submit
from worker.events import Failure

pytestmark = pytest.mark.anyio

TUNE: dict[str, Any] = {"over": {"optimizer.learning_rate": [0.01, 0.1, 1.0]}, "seeds": 1, "holdout": 5000}
DIVERGED = Failure(code="diverged", message="the loss is nan", may_pass=False, step=3)


async def tuned(http: AsyncClient, **fields: Any) -> str:
    return await submit(http, grid=GRID | {"seed": [0, 1]}, tune=TUNE | fields)


async def run_all(http: AsyncClient, reporter: Reporter, *, diverging: str = "") -> None:
    """Run all queued jobs. The error is lower where the learning rate is higher, and lower for group."""
    while (await http.get("/v1/jobs", params={"status": "queued", "limit": 1})).json()["data"]:
        job = (await http.get(f"/v1/jobs/{await reporter.start()}")).json()
        spec = job["spec"]
        if job["labels"]["tune"] == "search" and spec["normalization"]["type"] == diverging:
            await reporter.finish("failed", DIVERGED)
            continue
        better = spec["optimizer"]["learning_rate"] / 10 + 0.05 * (spec["normalization"]["type"] == "group")
        error = 0.5 - better + spec["seed"] % 10 / 1000
        metric = "holdout_error" if spec["dataset"]["holdout"] else "test_error"
        await reporter.metrics("eval", 1, 10, **{metric: error})
        await reporter.finish()


async def decide(database: Database, experiment_id: str) -> int:
    async with database.write() as session:
        return len(await seeding.decide(session, experiment_id))


async def results(http: AsyncClient, id_: str, **params: Any) -> dict[str, Any]:
    answer = await http.get(f"/v1/experiments/{id_}/results", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_dry_run_counts_the_jobs_of_every_stage_and_their_cost(http: AsyncClient, reporter: Reporter) -> None:
    body = BODY | {"grid": GRID | {"seed": [0, 1]}, "tune": TUNE}
    preview = (await http.post("/v1/experiments?dry_run=true", json=body)).json()
    search = 2 * 2 * 3
    assert preview["tuning"] == {
        "search_jobs": search,
        "untuned_jobs": 8,
        "tuned_jobs": 8,
        "search_device_s": pytest.approx(sum(job["cost_s"] for job in preview["jobs"][:search])),
    }
    assert (len(preview["jobs"]), preview["cells"], preview["most_jobs"]) == (search + 8, 4, search + 16)
    assert "shared_hyperparameters" not in {warning["code"] for warning in preview["warnings"]}
    await submit(http, grid={"normalization": [{"type": "batch"}], "batch_size": [4]})
    await reporter.start()
    await reporter.metrics("train", 1, 10, images_per_s=1000.0)
    await reporter.metrics("eval", 1, 10, eval_images_per_s=5000.0, test_error=0.5)
    known = (await http.post("/v1/experiments?dry_run=true", json=body)).json()
    whole, searched = 10 * 50_000 / 1000 + 10 * 10_000 / 5000, 3 * 45_000 / 1000 + 3 * 5000 / 5000
    assert known["tuning"]["search_device_s"] == pytest.approx(search * searched, rel=1e-3)
    assert known["cost"]["device_s"] == pytest.approx(search * searched + 16 * whole, rel=1e-3)


async def test_without_tune_there_is_no_stage(http: AsyncClient) -> None:
    id_ = await submit(http)
    found = await results(http, id_)
    assert (found["stage"], found["tuning"], found["beside"]) == (None, None, [])
    assert (await http.get(f"/v1/experiments/{id_}")).json()["tuning"] is None
    answer = await http.get(f"/v1/experiments/{id_}/results", params={"stage": "tuned"})
    assert answer.status_code == 422
    assert "has no tune" in answer.json()["detail"]


async def test_results_have_both_tables_and_what_was_chosen(
    http: AsyncClient, reporter: Reporter, database: Database
) -> None:
    id_ = await tuned(http)
    before = (await http.get(f"/v1/experiments/{id_}")).json()
    assert (before["jobs"], before["tuning"]["missing"], before["eta_s"]) == (12 + 8, 8, None)
    assert (await results(http, id_))["cells"] == []
    await run_all(http, reporter)
    assert (await http.get(f"/v1/experiments/{id_}")).json()["status"] == "running"
    assert await decide(database, id_) == 8
    await run_all(http, reporter)
    after = (await http.get(f"/v1/experiments/{id_}")).json()
    assert (after["status"], after["progress"], after["jobs"]) == ("finished", 1, 12 + 16)

    found = await results(http, id_)
    assert (found["stage"], found["metric"], found["evaluated_on"]) == ("tuned", "test_error", "test")
    means = {(cell["row"], cell["column"]): (cell["n"], cell["mean"]) for cell in found["cells"]}
    assert means["batch", "2"] == (2, pytest.approx(0.4005))
    beside = {(cell["row"], cell["column"]): cell["mean"] for cell in found["beside"]}
    assert beside["batch", "2"] == pytest.approx(0.4905)
    assert beside.keys() == means.keys()
    tuning = found["tuning"]
    assert (tuning["jobs"], tuning["ended"], tuning["missing"], tuning["compare"]) == (12, 12, 0, True)
    assert tuning["device_s"] > 0
    batch, group = tuning["choices"]
    assert (batch["row"], batch["column"], batch["has_ended"]) == ("batch", None, True)
    assert (batch["label"], batch["values"]) == ("learning_rate 1", {"optimizer.learning_rate": 1.0})
    assert (batch["edges"], batch["reason"]) == (["optimizer.learning_rate"], None)
    assert [candidate["error"] for candidate in batch["candidates"]] == pytest.approx([0.499, 0.49, 0.4])
    codes = {warning["code"]: warning["detail"] for warning in found["warnings"]}
    assert "learning_rate 1 of batch; learning_rate 1 of group (8)" in codes["tuned_value_at_the_edge"]
    assert not {"shared_hyperparameters", "settings_change_together", "pooled"} & codes.keys()

    answer = await http.get(
        f"/v1/experiments/{id_}/results", params={"table": "choices"}, headers={"accept": "text/csv"}
    )
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["values"] for row in rows if row["chosen"] == "True"] == ["learning_rate 1"] * 2
    assert len(rows) == 6

    untuned = await results(http, id_, stage="untuned")
    assert untuned["stage"] == "untuned"
    assert untuned["cells"] == found["beside"]
    assert untuned["beside"] == found["cells"]
    assert "shared_hyperparameters" in {warning["code"] for warning in untuned["warnings"]}
    assert group["values"] == {"optimizer.learning_rate": 1.0}


async def test_a_row_whose_search_diverged_says_why_it_has_no_tuned_jobs(
    http: AsyncClient, reporter: Reporter, database: Database
) -> None:
    id_ = await tuned(http)
    await run_all(http, reporter, diverging="batch")
    assert await decide(database, id_) == 4
    await run_all(http, reporter)
    found = await results(http, id_)
    assert [value["label"] for value in found["rows"]["values"]] == ["group (8)"]
    batch = found["tuning"]["choices"][0]
    assert (batch["values"], batch["has_ended"]) == (None, True)
    assert "6 of 6 jobs of the search failed" in batch["reason"]
    assert "not_tuned" in {warning["code"] for warning in found["warnings"]}


async def test_search_jobs_are_found_by_their_label_and_never_saw_the_test_images(http: AsyncClient) -> None:
    id_ = await tuned(http)
    jobs = (await http.get("/v1/jobs", params={"experiment": id_, "label": "tune:search", "limit": 200})).json()["data"]
    assert len(jobs) == 12
    assert {(job["spec"]["dataset"]["test_limit"], job["metric"]) for job in jobs} == {(0, "holdout_error")}


async def test_only_seeds_can_be_added(http: AsyncClient) -> None:
    id_ = await tuned(http)
    refused = await http.patch(f"/v1/experiments/{id_}", json={"grid": {"batch_size": [8]}})
    assert refused.status_code == 409
    assert "only seeds can be added" in refused.json()["detail"]
    longer = await http.patch(f"/v1/experiments/{id_}", json={"grid": {"seed": [2]}})
    assert longer.json()["jobs"] == 12 + 12


async def test_a_bundle_has_the_same_results_elsewhere(
    http: AsyncClient, reporter: Reporter, database: Database
) -> None:
    id_ = await tuned(http)
    await run_all(http, reporter)
    await decide(database, id_)
    await run_all(http, reporter)
    found = await results(http, id_)
    bundle = (await http.get(f"/v1/experiments/{id_}/bundle")).content
    assert (await http.delete(f"/v1/experiments/{id_}")).status_code == 204
    answer = await http.post("/v1/bundles", content=bundle, headers={"content-type": "application/x-tar"})
    assert answer.status_code == 201, answer.text
    assert await results(http, id_) == found


async def test_a_report_shows_what_was_chosen_and_both_tables(
    http: AsyncClient, reporter: Reporter, database: Database
) -> None:
    id_ = await tuned(http, per="cell")
    await run_all(http, reporter)
    await decide(database, id_)
    await run_all(http, reporter)
    report = (await http.get(f"/v1/experiments/{id_}/report", headers={"accept": "text/markdown"})).text
    report = report.replace("\\_", "_")
    assert "## Tuning" in report
    assert "Searched for each cell: optimizer.learning_rate 0.01, 0.1, 1." in report
    assert "| batch | 2 | learning_rate 1 | optimizer.learning_rate |" in report
    assert "The untuned jobs, beside the table above:" in report
