"""Figures over HTTP: of results, of learning curves by cell, and of the curves of jobs."""

import csv
import io
from typing import Any
from xml.etree import ElementTree

import pytest
from httpx2 import AsyncClient

from tests.integration.api.reporter import Reporter
from tests.integration.api.test_experiments import submit
from tests.integration.api.test_jobs import submit as submit_job
from tests.integration.api.test_results import ran

pytestmark = pytest.mark.anyio


async def drawn(http: AsyncClient, path: str, **query: Any) -> list[list[str]]:
    answer = await http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.reader(io.StringIO(answer.text)))


async def test_results_are_a_figure_in_every_format(http: AsyncClient, reporter: Reporter) -> None:
    path = f"/v1/experiments/{await ran(http, reporter)}/figure"
    svg = await http.get(f"{path}.svg", params={"width": 84})
    assert svg.headers["content-type"] == "image/svg+xml"
    assert svg.headers["content-security-policy"].startswith("default-src 'none'")
    root = ElementTree.fromstring(svg.text)
    assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(84 / 25.4 * 72, abs=0.01)
    assert "batch, group (8)" in root.attrib["aria-label"]
    pdf, png = [await http.get(f"{path}.{format}") for format in ("pdf", "png")]
    assert (pdf.headers["content-type"], pdf.content[:4]) == ("application/pdf", b"%PDF")
    assert (png.headers["content-type"], png.content[1:4]) == ("image/png", b"PNG")
    rows = await drawn(http, f"{path}.csv")
    assert [row[:2] for row in rows[1:]] == [["batch", "2"], ["batch", "4"], ["group (8)", "2"], ["group (8)", "4"]]
    assert float(rows[3][2]) == pytest.approx(100 * 0.61 / 3)


async def test_the_question_and_the_rows_can_be_others(http: AsyncClient, reporter: Reporter) -> None:
    path = f"/v1/experiments/{await ran(http, reporter)}/figure.csv"
    rows = await drawn(http, path, metric="test_loss", statistic="best", row="batch")
    assert rows[0][2] == "Test loss, best epoch (optimistic: chosen on the test set)"
    assert {row[0] for row in rows[1:]} == {"batch"}


async def test_cells_have_curves(http: AsyncClient, reporter: Reporter) -> None:
    path = f"/v1/experiments/{await ran(http, reporter)}/curves"
    rows = await drawn(http, f"{path}.csv", x="step")
    assert rows[0][:3] == ["series", "Optimizer step", "Test error (%)"]
    assert len(rows) == 1 + 4 * 2
    assert rows[1][:2] == ["batch at 2", "10"]
    assert float(rows[1][2]) == pytest.approx(100 * (0.94 / 3 + 0.1))
    one = await drawn(http, f"{path}.csv", cell="group (8)~4", spread="each")
    assert [row[0] for row in one[1:]] == ["group (8) at 4"] * 6
    assert (await http.get(f"{path}.pdf", params={"spread": "range", "log_y": True})).content[:4] == b"%PDF"
    unknown = await http.get(f"{path}.svg", params={"cell": "none~4"})
    assert unknown.status_code == 422
    assert "cell is 'none~4': give one of batch~2, batch~4" in unknown.json()["detail"]


async def test_jobs_have_curves_under_names_that_tell_them_apart(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await ran(http, reporter)
    results = (await http.get(f"/v1/experiments/{id_}/results")).json()
    jobs = [cell["jobs"][0] for cell in results["cells"][:2]]
    rows = await drawn(http, "/v1/curves.csv", job=jobs, x="time")
    assert list(dict.fromkeys(row[0] for row in rows[1:])) == ["2, seed 0", "4, seed 0"]
    seeds = await drawn(http, "/v1/curves.csv", job=results["cells"][0]["jobs"])
    assert {row[0] for row in seeds[1:]} == {"0", "1", "2"}
    both = await drawn(http, "/v1/curves.csv", job=jobs[0], metric=["test_error", "test_loss"])
    assert {row[0] for row in both[1:]} == {"test error", "test loss"}
    for job in jobs:
        await http.patch(f"/v1/jobs/{job}", json={"name": "same"})
    assert {row[0] for row in (await drawn(http, "/v1/curves.csv", job=jobs))[1:]} == set(jobs)
    picture = await http.get("/v1/curves.svg", params={"job": jobs, "smoothing": 0.5, "log_x": True, "title": True})
    assert ElementTree.fromstring(picture.text).tag.endswith("svg")


async def test_metrics_of_layers_are_drawn_for_one_layer(http: AsyncClient, reporter: Reporter) -> None:
    job = await submit_job(http, telemetry={})
    await reporter.start()
    values = {"a/percentile_1": -1.0, "a/percentile_99": 1.0, "b/percentile_1": -2.0}
    await reporter.metrics("telemetry", 1, 10, **values, gradient_norm=0.5)
    metrics = ["percentile_1", "percentile_99"]
    rows = await drawn(http, "/v1/curves.csv", job=job, metric=metrics, layer="a")
    assert [(row[0], float(row[2])) for row in rows[1:]] == [("1st percentile", -1), ("99th percentile", 1)]
    [_, other] = await drawn(http, "/v1/curves.csv", job=job, metric="percentile_1", layer="b")
    assert other[0].endswith(", b")
    [_, whole] = await drawn(http, "/v1/curves.csv", job=job, metric="gradient_norm", layer="b")
    assert float(whole[2]) == 0.5


async def test_jobs_are_points_and_lines_in_every_format(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await ran(http, reporter)
    rows = await drawn(http, "/v1/scatter.csv", experiment=id_, y="test_error.best", group="batch")
    assert rows[0] == ["series", "job", "Batch size", "Best test error (%)"]
    assert len(rows) == 1 + 6
    assert {row[0] for row in rows[1:]} == {"batch"}
    sizes = await drawn(http, "/v1/scatter.csv", by="batch_size", group="2.0", where="seed:0")
    assert [row[2] for row in sizes[1:]] == ["2", "2"]
    query = {"axis": ["batch_size", "normalization", "test_error"]}
    lines = await drawn(http, "/v1/parallel.csv", **query, where="seed<1")
    assert lines[0] == ["series", "job", "Batch size", "Normalization", "Last test error (%)"]
    assert len(lines) == 1 + 4
    for format, magic in (("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<svg")):
        for path, given in (("scatter", {"log_x": True, "width": 84}), ("parallel", query)):
            answer = await http.get(f"/v1/{path}.{format}", params=given)
            assert (answer.status_code, answer.content[: len(magic)]) == (200, magic)
    for wrong, says in (
        ({"x": "size"}, "x is 'size' is no quantity of a job"),
        ({"where": "size:3"}, "where is 'size:3'"),
    ):
        refused = await http.get("/v1/scatter.svg", params=wrong)
        assert refused.status_code == 422
        assert says in refused.json()["detail"]


async def test_compared_experiments_are_a_figure(http: AsyncClient, reporter: Reporter) -> None:
    ids = [await ran(http, reporter, name=name) for name in ("first", "second")]
    rows = await drawn(http, "/v1/comparison.csv", experiment=ids)
    assert list(dict.fromkeys(row[0] for row in rows[1:])) == [
        "batch: first",
        "batch: second",
        "group (8): first",
        "group (8): second",
    ]
    one = await drawn(http, "/v1/comparison.csv", experiment=ids, line=f"group (8)~{ids[1]}")
    assert {row[0] for row in one[1:]} == {"group (8): second"}
    answer = await http.get("/v1/comparison.pdf", params={"experiment": ids, "log_y": True})
    assert answer.content[:4] == b"%PDF"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("figure.gif", "format is 'gif'"),
        ("figure.svg?width=10", "width is '10'"),
        ("figure.svg?colour=red", "There is no colour"),
        ("curves.svg?x=day", "x is 'day'"),
        ("curves.svg?cell=batch", "cell is 'batch'"),
    ],
)
async def test_a_figure_that_cannot_be_says_why(http: AsyncClient, query: str, says: str) -> None:
    answer = await http.get(f"/v1/experiments/{await submit(http)}/{query}")
    assert answer.status_code == 422
    assert says in answer.text


async def test_without_a_value_there_is_no_figure(http: AsyncClient) -> None:
    id_ = await submit(http)
    job = (await http.get("/v1/jobs", params={"experiment": id_})).json()["data"][0]["id"]
    for path in (f"experiments/{id_}/figure.pdf", f"experiments/{id_}/curves.csv", f"curves.svg?job={job}"):
        answer = await http.get(f"/v1/{path}")
        assert answer.status_code == 404
        assert "no job of it has a value yet" in answer.json()["detail"]
    assert (await http.get("/v1/curves.svg?job=job_0")).status_code == 404
    assert (await http.get("/v1/experiments/experiment_0/figure.svg")).status_code == 404
