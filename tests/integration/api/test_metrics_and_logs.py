"""Metrics and logs of a job: as JSON or CSV, downsampled, and searched."""

import csv
import io
import math
from typing import Any

import pytest
from httpx2 import AsyncClient

from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import submit

pytestmark = pytest.mark.anyio


@pytest.fixture
async def job(http: AsyncClient, reporter: Reporter) -> str:
    id_ = await submit(http)
    await reporter.start()
    return id_


async def rows(http: AsyncClient, job: str, query: str = "") -> list[dict[str, Any]]:
    answer = await http.get(f"/v1/jobs/{job}/metrics?{query}")
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def test_rows_come_in_the_order_of_steps_with_their_values_beside_them(
    http: AsyncClient, job: str, reporter: Reporter
) -> None:
    await reporter.metrics("train", 1, 5, train_loss=2.3, learning_rate=0.1)
    await reporter.metrics("eval", 1, 10, test_error=0.6, test_loss=2.0)
    await reporter.metrics("train", 2, 15, train_loss=1.9, learning_rate=0.1)
    found = await rows(http, job)
    assert [(r["kind"], r["epoch"], r["step"]) for r in found] == [("train", 1, 5), ("eval", 1, 10), ("train", 2, 15)]
    assert found[1].keys() == {"kind", "epoch", "step", "time", "test_error", "test_loss"}
    assert (found[1]["test_error"], found[1]["test_loss"]) == (0.6, 2.0)
    assert [r["step"] for r in await rows(http, job, "kind=train")] == [5, 15]
    assert [r["step"] for r in await rows(http, job, "kind=train&after_step=5")] == [15]
    assert await rows(http, job, "after_step=15") == []


async def test_a_value_that_is_not_finite_is_null_and_said_to_be_diverged(
    http: AsyncClient, job: str, reporter: Reporter
) -> None:
    await reporter.metrics("train", 1, 5, train_loss=math.nan, train_error=0.9)
    [row] = await rows(http, job)
    assert (row["train_loss"], row["train_error"], row["diverged"]) == (None, 0.9, True)


async def test_every_step_has_one_row_that_counts_and_the_others_are_shown_on_request(
    http: AsyncClient, job: str, reporter: Reporter
) -> None:
    for step in (10, 20, 30):
        await reporter.metrics("eval", step // 10, step, test_error=0.9)
    first = reporter.attempt
    await reporter.lose()
    await reporter.start(resumed_from_step=10)
    await reporter.metrics("eval", 2, 20, test_error=0.5)
    assert [(r["step"], r["test_error"]) for r in await rows(http, job)] == [(10, 0.9), (20, 0.5)]
    everything = await rows(http, job, "superseded=true")
    assert sorted((r["step"], r["superseded"], r["attempt"]) for r in everything) == sorted(
        [(10, False, first), (20, True, first), (30, True, first), (20, False, reporter.attempt)]
    )


async def test_a_table_has_a_column_for_each_metric(http: AsyncClient, job: str, reporter: Reporter) -> None:
    await reporter.metrics("train", 1, 5, train_loss=math.inf, learning_rate=0.1)
    await reporter.metrics("eval", 1, 10, test_error=0.6)
    answer = await http.get(f"/v1/jobs/{job}/metrics", headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    table = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(table[0]) == ["kind", "epoch", "step", "time", "diverged", "learning_rate", "test_error", "train_loss"]
    assert [(r["kind"], r["train_loss"], r["learning_rate"], r["test_error"]) for r in table] == [
        ("train", "", "0.1", ""),
        ("eval", "", "", "0.6"),
    ]
    empty = await http.get(f"/v1/jobs/{job}/metrics?after_step=99", headers={"Accept": "text/csv"})
    assert empty.text == "kind,epoch,step,time\r\n"


async def test_downsampled_rows_keep_the_ends_and_the_peaks(http: AsyncClient, job: str, reporter: Reporter) -> None:
    for step in range(1, 61):
        loss = {20: 9.0, 40: -9.0}.get(step, 1 + step % 2)
        await reporter.metrics("train", 1, step, train_loss=loss)
    await reporter.metrics("eval", 1, 60, test_error=0.5)
    found = await rows(http, job, "max_points=12")
    train = [row for row in found if row["kind"] == "train"]
    assert len(train) <= 12
    assert {1, 20, 40, 60} <= {row["step"] for row in train}
    assert [row["step"] for row in train] == sorted(row["step"] for row in train)
    assert [row["step"] for row in found if row["kind"] == "eval"] == [60]


@pytest.mark.parametrize("query", ["kind=test", "max_points=1", "after_step=-2", "superseded=maybe", "points=3"])
async def test_metrics_refuse_what_they_do_not_know(http: AsyncClient, job: str, query: str) -> None:
    answer = await http.get(f"/v1/jobs/{job}/metrics?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == query.partition("=")[0]


async def test_log_lines_are_paged_filtered_and_searched(http: AsyncClient, job: str, reporter: Reporter) -> None:
    for level, message in [
        ("info", "Loading CIFAR-10"),
        ("warning", "100% slower than expected"),
        ("error", "the disk is full"),
        ("debug", "cifar ready"),
    ]:
        await reporter.log(message, level)
    await reporter.metrics("eval", 1, 10, test_error=0.6)

    async def messages(query: str) -> list[str]:
        answer = await http.get(f"/v1/jobs/{job}/logs?{query}")
        assert answer.status_code == 200, answer.text
        return [line["message"] for line in answer.json()["data"]]

    assert len(await messages("")) == 4
    assert await messages("level=error") == ["the disk is full"]
    assert await messages("level=error&level=warning") == ["100% slower than expected", "the disk is full"]
    assert await messages("search=cifar") == ["Loading CIFAR-10", "cifar ready"]
    assert await messages("search=cifar&level=debug") == ["cifar ready"]
    assert await messages("search=%25") == ["100% slower than expected"]
    first = (await http.get(f"/v1/jobs/{job}/logs?limit=3")).json()
    assert first["data"][0].keys() == {"id", "time", "level", "message", "attempt"}
    assert first["data"][0]["attempt"] == reporter.attempt
    second = (await http.get(f"/v1/jobs/{job}/logs?limit=3&after={first['next_cursor']}")).json()
    assert [line["message"] for line in second["data"]] == ["cifar ready"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize("query", ["level=loud", "after=x", "limit=0", "grep=x"])
async def test_logs_refuse_what_they_do_not_know(http: AsyncClient, job: str, query: str) -> None:
    answer = await http.get(f"/v1/jobs/{job}/logs?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == query.partition("=")[0]


@pytest.mark.parametrize("noun", ["metrics", "logs", "events", "checkpoints"])
async def test_what_a_missing_job_reported_is_404(http: AsyncClient, noun: str) -> None:
    answer = await http.get(f"/v1/jobs/job_0/{noun}")
    assert answer.status_code == 404
    assert "job_0" in answer.json()["detail"]


async def test_telemetry_comes_where_it_is_asked_for(http: AsyncClient, job: str, reporter: Reporter) -> None:
    await reporter.metrics("eval", 1, 10, test_error=0.5)
    await reporter.metrics("telemetry", 1, 10, **{"stem_norm/mean_gap": 0.25})
    assert [row["kind"] for row in await rows(http, job)] == ["eval"]
    [found] = await rows(http, job, "kind=telemetry")
    assert found["stem_norm/mean_gap"] == 0.25
    [curve] = (await http.get(f"/v1/curves?job={job}&metric=stem_norm/mean_gap")).json()["data"]
    assert curve["value"] == [0.25]
    assert set((await http.get(f"/v1/jobs/{job}")).json()["summary"]) == {"test_error"}


async def test_curves_of_many_jobs_come_in_one_answer_downsampled(
    http: AsyncClient, job: str, reporter: Reporter
) -> None:
    for epoch in range(1, 61):
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.9 if epoch == 31 else 0.5)
    waiting = await submit(http)
    whole = (await http.get(f"/v1/curves?job={waiting}&job={job}&job={job}&job=job_0&metric=test_error")).json()
    assert whole["max_points"] == 2000
    assert [curve["job"] for curve in whole["data"]] == [waiting, job]
    assert whole["data"][0] == {
        "job": waiting,
        "metric": "test_error",
        "step": [],
        "epoch": [],
        "time": [],
        "value": [],
        "steps_per_epoch": 25_000,
        "started_at": None,
        "smoothed": None,
        "count": 0,
    }
    assert whole["data"][1]["step"] == [10 * epoch for epoch in range(1, 61)]

    thin = (await http.get(f"/v1/curves?job={job}&max_points=8&smoothing=0.5")).json()["data"][0]
    assert len(thin["step"]) <= 8
    assert max(thin["value"]) == 0.9
    assert thin["count"] == 60
    at = thin["step"].index(310)
    assert thin["smoothed"][at] == pytest.approx(0.7, abs=1e-6), "over all values, not over the downsampled ones"


async def test_curves_of_several_metrics_come_in_one_answer(http: AsyncClient, job: str, reporter: Reporter) -> None:
    for epoch in (1, 2):
        await reporter.metrics("train", epoch, 10 * epoch - 5, train_loss=2.0 / epoch)
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch)
    query = f"job={job}&metric=train_loss&metric=test_error&metric=train_loss&metric=none"
    found = (await http.get(f"/v1/curves?{query}")).json()["data"]
    assert [(curve["metric"], curve["step"], curve["value"]) for curve in found] == [
        ("train_loss", [5, 15], [2.0, 1.0]),
        ("test_error", [10, 20], [0.5, 0.25]),
        ("none", [], []),
    ]


async def test_an_average_is_of_all_values_however_few_are_answered(
    http: AsyncClient, job: str, reporter: Reporter
) -> None:
    for step in range(200):
        await reporter.metrics("train", 1, step, train_loss=float(step % 2))
    query = f"job={job}&metric=train_loss&smoothing=0.95&max_points=20"
    [curve] = (await http.get(f"/v1/curves?{query}")).json()["data"]
    assert len(curve["step"]) <= 20
    assert (curve["step"][0], curve["step"][-1]) == (0, 199)
    assert curve["smoothed"][-1] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("query", ["", "job=job_1&smoothing=1", "job=job_1&max_points=1", "job=job_1&metrics=x"])
async def test_curves_that_cannot_be_are_refused(http: AsyncClient, query: str) -> None:
    assert (await http.get(f"/v1/curves?{query}")).status_code == 422
