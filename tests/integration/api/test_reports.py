"""A report over HTTP: a page without external resources and without scripts."""

import re
from typing import Any

import pytest
from httpx2 import AsyncClient

pytestmark = pytest.mark.anyio

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
async def experiment(http: AsyncClient, reporter: Any) -> str:
    grid = {"normalization": [{"type": "batch"}, {"type": "group"}], "seed": [0, 1]}
    made = await http.post("/v1/experiments", json={"name": HOSTILE, "base": {"batch_size": 2}, "grid": grid})
    for number in range(3):
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=0.5 + number / 100, test_loss=1.0 + number)
        await reporter.checkpoint(1, 10, {"model.safetensors": b"%d" % number}, test_error=0.5)
        await reporter.finish()
    id_: str = made.json()["id"]
    return id_


async def test_it_is_one_page_that_says_what_the_results_say(http: AsyncClient, experiment: str) -> None:
    answer = await http.get(f"/v1/experiments/{experiment}/report")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    text = answer.text
    assert "Test error (%) by normalization and batch_size" in text
    assert "51.00 ± " in text
    assert "cpu on node-1: 3 attempts" in text
    assert "torch 2.13.0" in text
    # The sha256 of the weights of each of the three ended jobs.
    assert len(set(re.findall(r"[0-9a-f]{64}", text))) == 3


async def test_a_report_is_markdown_on_request(http: AsyncClient, experiment: str) -> None:
    path = f"/v1/experiments/{experiment}/report"
    text = await http.get(path, params={"figure": "r.svg"}, headers={"accept": "text/markdown"})
    assert text.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "](r.svg)" in text.text
    assert "51.00 ± " in text.text
    assert (await http.get(path, params={"figure": "a) b"})).status_code == 422


async def test_before_anything_was_found_there_is_a_report_and_no_figure(http: AsyncClient) -> None:
    base = {"batch_size": 2, "normalization": {"type": "group"}}
    made = await http.post("/v1/experiments", json={"name": "new", "base": base, "grid": {"seed": [0]}})
    path = f"/v1/experiments/{made.json()['id']}/report"
    assert "](" not in (await http.get(path, headers={"accept": "text/markdown"})).text


async def test_another_metric_can_be_asked_for(http: AsyncClient, experiment: str) -> None:
    answer = await http.get(f"/v1/experiments/{experiment}/report", params={"metric": "test_loss", "statistic": "best"})

    assert "Test loss by normalization and batch_size" in answer.text
    assert "best epoch (optimistic: chosen on the test set)" in answer.text


async def test_a_name_is_text_and_nothing_could_run_anyway(http: AsyncClient, experiment: str) -> None:
    answer = await http.get(f"/v1/experiments/{experiment}/report")

    assert HOSTILE not in answer.text
    assert "&lt;script&gt;" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy


async def test_there_is_none_of_what_is_not_there(http: AsyncClient) -> None:
    assert (await http.get("/v1/experiments/experiment_0/report")).status_code == 404
