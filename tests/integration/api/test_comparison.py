"""The comparison of experiments over HTTP."""

import csv
import io
from typing import Any

import pytest
from httpx2 import AsyncClient

from tests.integration.api.reporter import Reporter
from tests.integration.api.test_experiments import BODY
from tests.integration.api.test_results import ERRORS, ran

pytestmark = pytest.mark.anyio


async def comparison(http: AsyncClient, *experiments: str, **params: Any) -> dict[str, Any]:
    answer = await http.get("/v1/comparison", params={"experiment": experiments, **params})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_cells_stand_side_by_side_and_equal_ones_are_compared(http: AsyncClient, reporter: Reporter) -> None:
    first = await ran(http, reporter, name="first")
    second = await ran(http, reporter, name="second", base=BODY["base"] | {"epochs": 4})
    found = await comparison(http, first, second)
    assert [(one["experiment"], one["title"]) for one in found["experiments"]] == [(first, "first"), (second, "second")]
    own = (await http.get(f"/v1/experiments/{first}/results")).json()
    assert found["experiments"][0]["cells"] == own["cells"]
    assert (found["rows"], found["columns"], found["metric"]) == (own["rows"], own["columns"], "test_error")
    assert len(found["differences"]) == len(ERRORS)
    # Both have equal values: nothing differs, and no test can claim certainty.
    assert {one["difference"] for one in found["differences"]} == {0.0}
    assert {(one["experiment_a"], one["experiment_b"]) for one in found["differences"]} == {(first, second)}
    warnings = {one["code"]: one for one in found["warnings"]}
    assert "epochs 10 (first), 4 (second)" in warnings["experiments_differ"]["detail"]
    assert "repeated_job" not in warnings
    turned = await comparison(http, second, first, statistic="best", rows="batch_size", columns="normalization")
    assert (turned["statistic"], turned["rows"]["field"]) == ("best", "batch_size")


async def test_it_is_csv_on_request(http: AsyncClient, reporter: Reporter) -> None:
    ids = [await ran(http, reporter, name=name) for name in ("first", "second")]
    query = {"experiment": ids, "table": "cells"}
    answer = await http.get("/v1/comparison", params=query, headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["experiment"] for row in rows] == [ids[0]] * 4 + [ids[1]] * 4
    assert {"title", "row", "column", "mean", "low", "high", "metric"} <= rows[0].keys()
    query["table"] = "differences"
    answer = await http.get("/v1/comparison", params=query, headers={"Accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 4
    assert {"experiment_a", "experiment_b", "difference", "p_adjusted"} <= rows[0].keys()


async def test_it_is_latex_on_request(http: AsyncClient, reporter: Reporter) -> None:
    ids = [await ran(http, reporter, name=name) for name in ("first", "second")]
    answer = await http.get("/v1/comparison", params={"experiment": ids}, headers={"Accept": "application/x-latex"})
    assert answer.headers["content-type"].startswith("application/x-latex")
    assert answer.text.count(r"\begin{table}") == answer.text.count(r"\end{table}") == 2
    assert r"batch & second & $" in answer.text


async def test_what_cannot_be_compared_is_refused(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await ran(http, reporter)
    for experiments, status in (([id_], 422), ([id_, id_], 422), ([id_, "experiment_unknown"], 404), ([], 422)):
        answer = await http.get("/v1/comparison", params={"experiment": experiments})
        assert answer.status_code == status, (experiments, answer.text)
    assert "twice" in (await http.get("/v1/comparison", params={"experiment": [id_, id_]})).json()["detail"]


async def test_experiments_of_one_name_are_told_apart(http: AsyncClient, reporter: Reporter) -> None:
    ids = [await ran(http, reporter, name="again") for _ in range(2)]
    found = await comparison(http, *ids, step=20, statistic="at_step")
    assert [one["title"] for one in found["experiments"]] == [f"again ({id_})" for id_ in ids]
    assert {cell["n"] for one in found["experiments"] for cell in one["cells"]} == {3}
