"""Results over HTTP: means with intervals, differences with p values, as JSON, CSV or Parquet."""

import csv
import io
import sys
from statistics import mean, stdev
from typing import Any

import pyarrow.parquet
import pytest
from httpx2 import AsyncClient
from scipy import stats

from tests.integration.api.reporter import Reporter
from tests.integration.api.test_experiments import BODY, GRID, submit
from worker.events import Failure

pytestmark = pytest.mark.anyio

ERRORS = {
    ("batch", 2): [0.30, 0.33, 0.31],
    ("batch", 4): [0.20, 0.22, 0.21],
    ("group", 2): [0.20, 0.21, 0.20],
    ("group", 4): [0.21, 0.20, 0.22],
}
CSV = {"Accept": "text/csv"}


async def ran(http: AsyncClient, reporter: Reporter, **fields: Any) -> str:
    """An experiment of 2 × 2 cells and three seeds, whose jobs have all succeeded."""
    id_ = await submit(http, grid=GRID | {"seed": [0, 1, 2]}, **fields)
    for _ in range(12):
        job = await reporter.start()
        spec = (await http.get(f"/v1/jobs/{job}")).json()["spec"]
        error = ERRORS[spec["normalization"]["type"], spec["batch_size"]][spec["seed"]]
        await reporter.metrics("eval", 1, 10, test_error=error + 0.1, test_loss=1.0)
        await reporter.metrics("train", 1, 10, images_per_s=100.0 * spec["batch_size"])
        await reporter.metrics("eval", 2, 20, test_error=error, test_loss=0.5)
        await reporter.finish()
    return id_


async def results(http: AsyncClient, path: str, **params: Any) -> dict[str, Any]:
    answer = await http.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_labels_are_rows_and_conditions_on_metrics_select(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await ran(http, reporter)
    jobs = (await http.get("/v1/jobs", params={"sort": "test_error"})).json()["data"]
    for job in jobs[:3]:
        await http.patch(f"/v1/jobs/{job['id']}", json={"labels": {"arm": "best"}})
    query = {"rows": "labels.arm", "columns": "batch_size", "where": "test_error<0.3"}
    for path in (f"/v1/experiments/{id_}/results", "/v1/results"):
        found = await results(http, path, **query)
        assert sorted(value["label"] for value in found["rows"]["values"]) == ["best", "null"]
        values = [value["value"] for cell in found["cells"] for value in cell["values"]]
        assert sorted(values) == sorted(error for some in ERRORS.values() for error in some if error < 0.3)
        assert sum(cell["n"] for cell in found["cells"] if cell["row"] == "best") == 3
        only = await results(http, path, where=["labels.arm:best", "normalization:batch", "normalization:group (8)"])
        assert sum(cell["n"] for cell in only["cells"]) == 3


async def test_a_cell_has_mean_interval_jobs_and_what_it_took(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await ran(http, reporter)
    found = await results(http, f"/v1/experiments/{id_}/results")
    assert (found["experiment"], found["metric"], found["unit"]) == (id_, "test_error", "fraction")
    assert (found["statistic"], found["evaluated_on"], found["datasets"]) == ("final", "test", ["cifar10"])
    assert [value["label"] for value in found["rows"]["values"]] == ["batch", "group (8)"]
    assert [value["value"] for value in found["columns"]["values"]] == [2, 4]
    assert len(found["cells"]) == 4
    for cell in found["cells"]:
        errors = ERRORS[cell["row"].partition(" ")[0], int(cell["column"])]
        assert cell["n"] == 3
        assert cell["mean"] == pytest.approx(mean(errors))
        assert cell["sd"] == pytest.approx(stdev(errors))
        low, high = stats.t.interval(0.95, 2, loc=mean(errors), scale=stdev(errors) / 3**0.5)
        assert cell["interval"] == pytest.approx([low, high])
        assert [(value["seed"], value["value"]) for value in cell["values"]] == list(enumerate(errors))
        assert sorted(cell["jobs"]) == sorted(value["job"] for value in cell["values"])
        assert cell["counts"] == {"succeeded": 3}
        assert cell["images_per_s"] == 100 * int(cell["column"])
        assert cell["device_s"] > 0
        assert cell["note"] is None


async def test_rows_are_compared_in_pairs_within_a_column(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await ran(http, reporter)
    found = await results(http, f"/v1/experiments/{id_}/results")
    assert found["family_size"] == len(found["comparisons"]) == 2
    by_column = {entry["column"]: entry for entry in found["comparisons"]}
    for size in (2, 4):
        entry = by_column[str(size)]
        tested = stats.ttest_rel(ERRORS["batch", size], ERRORS["group", size])
        assert (entry["row_a"], entry["row_b"], entry["n"]) == ("batch", "group (8)", 3)
        assert entry["p"] == pytest.approx(tested.pvalue)
    assert by_column["2"]["resolved"] is True
    assert by_column["4"]["resolved"] is False
    assert found["interaction"]["resolved"] is True


async def test_the_question_can_be_another(http: AsyncClient, reporter: Reporter) -> None:
    path = f"/v1/experiments/{await ran(http, reporter)}/results"
    swapped = await results(http, path, rows="batch_size", columns="normalization.type")
    assert [value["label"] for value in swapped["rows"]["values"]] == ["2", "4"]
    first = await results(http, path, statistic="at_step", step=10)
    assert first["cells"][0]["mean"] == pytest.approx(mean(ERRORS["batch", 2]) + 0.1)
    assert (await results(http, path, statistic="at_step", step=11))["cells"][0]["without_value"] == 3
    best = await results(http, path, statistic="best")
    assert best["statistic_title"] == "best epoch (optimistic: chosen on the test set)"
    assert "selected_on_the_test_set" in {warning["code"] for warning in best["warnings"]}
    halves = await results(http, path, statistic="median_last_5")
    assert halves["cells"][0]["mean"] == pytest.approx(mean(ERRORS["batch", 2]) + 0.05)
    losses = await results(http, path, metric="test_loss")
    assert (losses["cells"][0]["mean"], losses["unit"]) == (0.5, "nats")
    assert "All 3 values are equal" in losses["cells"][0]["note"]
    assert (await results(http, path, where="batch_size:4"))["columns"]["values"] == [{"label": "4", "value": 4}]
    narrower = (await results(http, path, confidence=0.5))["cells"][0]["interval"]
    assert narrower[1] < (await results(http, path))["cells"][0]["interval"][1]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("rows=lr", "rows is 'lr': give one of augmentation"),
        ("rows=batch_size", "rows and columns are both batch_size"),
        ("statistic=at_step", "step and the statistic at_step belong together"),
        ("step=3", "step and the statistic at_step belong together"),
        ("metric=train_loss&statistic=median_last_5", "train_loss is not one"),
        ("metric=test_loss&failed=chance", "failed is chance, and test_loss is no error"),
        ("failed=ignored", "failed is 'ignored'"),
        ("where=lr:3", "where is 'lr:3': 'lr' is no quantity of a job: give a field"),
        ("where=test_error<low", "give a number after <"),
        ("rows=labels.", "or a label, as in labels.study"),
        ("where=lr", "where is 'lr'"),
        ("metric=accuracy", "metric is 'accuracy'"),
        ("statistic=worst", "statistic is 'worst'"),
        ("confidence=1", "confidence is '1'"),
        ("colour=red", "There is no colour"),
    ],
)
async def test_a_question_without_an_answer_says_why(http: AsyncClient, query: str, says: str) -> None:
    for path in ("/v1/results", f"/v1/experiments/{await submit(http)}/results"):
        answer = await http.get(f"{path}?{query}")
        assert answer.status_code == 422
        assert says in answer.text


async def test_one_seed_has_no_interval_and_says_so(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http, grid={"normalization": [{"type": "batch"}], "batch_size": [4], "seed": [0, 1]})
    path = f"/v1/experiments/{id_}/results"
    [cell] = (await results(http, path))["cells"]
    assert (cell["n"], cell["note"], cell["counts"]) == (0, "No job of this cell has a value yet.", {"queued": 2})
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5)
    [cell] = (await results(http, path))["cells"]
    assert (cell["n"], cell["counts"]) == (0, {"running": 1, "queued": 1}), "a job that has not ended has no value"
    await reporter.finish()
    [cell] = (await results(http, path))["cells"]
    assert (cell["n"], cell["mean"], cell["interval"]) == (1, 0.5, None)
    assert cell["note"].startswith("One seed")


async def test_a_failed_job_is_without_value_until_its_retry_has_one(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http, grid={"normalization": [{"type": "batch"}], "batch_size": [4]})
    path = f"/v1/experiments/{id_}/results"
    job = await reporter.start()
    await reporter.finish("failed", Failure(code="diverged", message="The loss is NaN.", step=7, may_pass=False))
    [cell] = (await results(http, path))["cells"]
    assert (cell["n"], cell["without_value"], cell["counts"]) == (0, 1, {"failed": 1})
    assert (cell["failed"], cell["note"]) == (1, "No job of this cell has a value: 1 of 1 failed.")
    assert cell["failed_share"] == pytest.approx([0.2065, 1], abs=1e-4)
    guessed = await results(http, path, failed="chance")
    [cell] = guessed["cells"]
    assert (guessed["failed"], cell["n"], cell["mean"], cell["failed"]) == ("chance", 1, 0.9, 1)
    assert "failed_seeds" in {warning["code"] for warning in guessed["warnings"]}
    retry = (await http.post(f"/v1/jobs/{job}/retry")).json()["id"]
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.25)
    await reporter.finish()
    [cell] = (await results(http, path))["cells"]
    assert (cell["n"], cell["mean"], cell["jobs"], cell["without_value"]) == (1, 0.25, [retry], 0)


async def test_the_budget_and_the_subset_are_part_of_the_results(http: AsyncClient) -> None:
    id_ = await submit(http, budget=0.25)
    found = await results(http, f"/v1/experiments/{id_}/results")
    assert (found["budget"], found["datasets"]) == (0.25, ["cifar10 (train_limit 25000, test_limit 5000)"])


async def test_any_jobs_make_results(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await ran(http, reporter, base={"epochs": 10, "labels": {"study": "one"}})
    await submit(http, base={"epochs": 20})
    whole = await results(http, "/v1/results")
    assert whole["experiment"] is None
    assert whole["cells"][0]["counts"] == {"succeeded": 3, "queued": 1}
    assert "pooled" in {warning["code"] for warning in whole["warnings"]}
    for query in ({"label": "study:one"}, {"experiment": id_}, {"status": "succeeded"}, {"where": "epochs:10"}):
        found = await results(http, "/v1/results", **query)
        assert [cell["n"] for cell in found["cells"]] == [3, 3, 3, 3], query
        assert "pooled" not in {warning["code"] for warning in found["warnings"]}
    assert (await results(http, "/v1/results", label="study:none"))["cells"] == []


class TestTables:
    async def test_csv_has_a_line_a_cell(self, http: AsyncClient, reporter: Reporter) -> None:
        path = f"/v1/experiments/{await ran(http, reporter)}/results"
        answer = await http.get(path, headers=CSV)
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [(row["row"], row["column"], row["n"]) for row in rows] == [
            ("batch", "2", "3"),
            ("batch", "4", "3"),
            ("group (8)", "2", "3"),
            ("group (8)", "4", "3"),
        ]
        cell = (await results(http, path))["cells"][0]
        assert [float(rows[0][name]) for name in ("mean", "low", "high")] == [cell["mean"], *cell["interval"]]

    async def test_csv_has_comparisons_and_observations_too(self, http: AsyncClient, reporter: Reporter) -> None:
        path = f"/v1/experiments/{await ran(http, reporter)}/results"
        compared = list(csv.DictReader(io.StringIO((await http.get(f"{path}?table=comparisons", headers=CSV)).text)))
        assert [row["column"] for row in compared] == ["2", "4"]
        observed = list(csv.DictReader(io.StringIO((await http.get(f"{path}?table=observations", headers=CSV)).text)))
        assert sorted(float(row["value"]) for row in observed) == sorted(e for es in ERRORS.values() for e in es)
        assert {row["precision"] for row in observed} == {"float32"}

    async def test_latex_has_the_cells_and_the_comparisons(self, http: AsyncClient, reporter: Reporter) -> None:
        path = f"/v1/experiments/{await ran(http, reporter)}/results"
        answer = await http.get(path, headers={"Accept": "application/x-latex"})
        assert answer.headers["content-type"].startswith("application/x-latex")
        assert answer.text.count(r"\begin{tabular}") == 2
        assert r"group (8) & $\mathbf{20.33} \pm 1.43$ & $\mathbf{21.00} \pm 2.48$ \\" in answer.text
        assert (await http.get("/v1/results", headers={"Accept": "application/x-latex"})).text.count("toprule") == 2

    async def test_nothing_is_an_empty_table(self, http: AsyncClient) -> None:
        for table in ("cells", "comparisons", "observations"):
            assert (await http.get(f"/v1/results?table={table}", headers=CSV)).text == ""

    async def test_parquet_is_the_same_table(self, http: AsyncClient, reporter: Reporter) -> None:
        path = f"/v1/experiments/{await ran(http, reporter)}/results?table=observations"
        answer = await http.get(path, headers={"Accept": "application/vnd.apache.parquet"})
        assert answer.headers["content-type"] == "application/vnd.apache.parquet"
        table = pyarrow.parquet.read_table(io.BytesIO(answer.content)).to_pylist()
        assert len(table) == 12
        assert {(row["row"], row["seed"]): row["value"] for row in table}["batch", 2] == 0.21

    async def test_parquet_without_pyarrow_is_refused_with_what_to_do(
        self, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        answer = await http.get("/v1/results", headers={"Accept": "application/vnd.apache.parquet"})
        assert answer.status_code == 406
        assert "install normlab[parquet]" in answer.json()["detail"]


async def test_sequential_seeds_are_judged_by_their_plan(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http, seeds={"min": 2, "max": 4})
    for _ in range(8):
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=0.5, test_loss=1.0)
        await reporter.finish()
    path = f"/v1/experiments/{id_}/results"
    found = await results(http, path)
    assert found["interim_analyses"][0] == 2
    assert found["interim_analyses"][-1] == 4
    assert found["sequential"]["deciding"] is True
    codes = {warning["code"] for warning in found["warnings"]}
    assert "outcome_not_declared" not in codes
    other = await results(http, path, metric="test_loss")
    assert "outcome_not_declared" in {warning["code"] for warning in other["warnings"]}


async def test_the_declared_outcome_is_the_default(http: AsyncClient) -> None:
    outcome = {"metric": "train_loss", "statistic": "best", "rows": "batch_size", "columns": "model"}
    id_ = await submit(http, outcome=outcome)
    found = await results(http, f"/v1/experiments/{id_}/results")
    assert {name: found[name] for name in ("metric", "statistic")} == {"metric": "train_loss", "statistic": "best"}
    assert (found["rows"]["field"], found["columns"]["field"]) == ("batch_size", "model")
    assert BODY["name"] == found["name"]
