"""Results as records, data frames and a table of HTML."""

import pytest

import normlab
from service.client.results import Results, ResultTable
from tests.unit.service.stand_in import Answer, Json, StandIn

CELL: Json = {
    "row": "batch",
    "column": "2",
    "n": 2,
    "mean": 0.5,
    "sd": 0.1,
    "interval": [0.4, 0.6],
    "counts": {"succeeded": 2},
    "values": [{"seed": 0, "job": "job_0", "value": 0.4}, {"seed": 1, "job": "job_1", "value": 0.6}],
}
EMPTY = CELL | {"row": "group <8>", "n": 0, "mean": None, "sd": None, "interval": None, "values": []}
RESULTS: Json = {
    "name": "a <b> study",
    "headline": "No difference is significant.",
    "metric": "test_error",
    "stage": None,
    "tuning": None,
    "beside": [],
    "statistic_title": "after the last epoch",
    "datasets": ["cifar10"],
    "rows": {"field": "normalization", "values": [{"label": "batch"}, {"label": "group <8>"}]},
    "columns": {"field": "batch_size", "values": [{"label": "2"}]},
    "cells": [CELL, EMPTY],
    "comparisons": [],
    "warnings": [],
}
ROWS = {
    "cells": [
        {"row": "batch", "column": "2", "n": 2, "mean": 0.5, "sd": 0.1, "low": 0.4, "high": 0.6},
        {"row": "group <8>", "column": "2", "n": 0, "mean": None, "sd": None, "low": None, "high": None},
    ],
    "observations": [
        {"row": "batch", "column": "2", "seed": 0, "job": "job_0", "value": 0.4},
        {"row": "batch", "column": "2", "seed": 1, "job": "job_1", "value": 0.6},
    ],
    "comparisons": [],
}


@pytest.mark.parametrize("table", ["cells", "observations", "comparisons"])
def test_a_table_is_a_data_frame_with_a_row_per_record(table: ResultTable) -> None:
    results = Results(RESULTS)
    assert results.records(table) == ROWS[table]
    frame = results.to_pandas(table)
    assert frame.astype(object).where(frame.notna(), None).to_dict("records") == ROWS[table]
    assert results.to_polars(table).to_dicts() == ROWS[table]


def test_another_table_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'rows', which is none of cells, comparisons, observations"):
        Results(RESULTS).records("rows")  # type: ignore[arg-type]


def test_a_notebook_shows_a_table_of_escaped_text() -> None:
    html = Results(RESULTS)._repr_html_()
    assert "<table>" in html
    assert "group &lt;8&gt;" in html
    assert "a &lt;b&gt; study" in html
    assert "<html" not in html


JOBS: list[Json] = [
    {
        "id": "job_<1>",
        "spec": {"batch_size": 2, "schedule": {"milestones": [1]}},
        "summary": {"test_error": {"last": 0.5}},
    },
    {"id": "job_2", "spec": {"batch_size": 32}, "summary": {}, "notes": None},
]


def test_a_list_of_jobs_is_a_data_frame_with_a_column_for_each_field(service: StandIn) -> None:
    service.on("GET", "/v1/jobs", Answer({"data": JOBS, "next_cursor": None}))
    with normlab.Client(service.url) as client:
        jobs = normlab.Records(client.jobs())
    assert jobs == JOBS
    columns = ["id", "spec.batch_size", "summary.test_error.last", "notes"]
    for frame in (jobs.to_pandas(), jobs.to_polars()):
        assert list(frame.columns) == columns
        assert list(frame["spec.batch_size"]) == [2, 32]
    html = jobs._repr_html_()
    assert "job_&lt;1&gt;" in html
    assert "batch_size" not in html, "what is nested has too many columns for a page"


def test_metrics_are_a_data_frame_too(service: StandIn) -> None:
    rows = [{"step": step, "test_error": 0.5 / step} for step in range(1, 61)]
    service.on("GET", "/v1/jobs/job_1/metrics", Answer({"data": rows}))
    with normlab.Client(service.url) as client:
        metrics = client.metrics("job_1")
    assert metrics.to_pandas().to_dict("records") == metrics.to_polars().to_dicts() == rows
    assert "and 10 more" in metrics._repr_html_()
    assert normlab.Records()._repr_html_()


DIFFERENCE: Json = {"row": "batch", "column": "2", "experiment_a": "a", "experiment_b": "b", "interval": [-0.1, 0.1]}
COMPARISON: Json = {
    "experiments": [{"experiment": one, "title": f"<{one}>", "cells": [CELL]} for one in ("a", "b")],
    "differences": [DIFFERENCE],
}


def test_a_comparison_is_a_data_frame_of_differences_or_cells(service: StandIn) -> None:
    service.on("GET", "/v1/comparison", Answer(COMPARISON))
    with normlab.Client(service.url) as client:
        found = client.experiments.compare(["a", "b"])
    [difference] = found.to_pandas().to_dict("records")
    assert difference == found.to_polars().to_dicts()[0] == found.records("differences")[0]
    assert (difference["experiment_b"], difference["low"], difference["high"]) == ("b", -0.1, 0.1)
    assert list(found.to_pandas("cells")["experiment"]) == ["a", "b"]
    assert "&lt;a&gt; and &lt;b&gt;" in found._repr_html_()
    with pytest.raises(ValueError, match="'rows', which is none of cells, differences"):
        found.records("rows")  # type: ignore[arg-type]


def test_the_module_has_the_client_and_its_version() -> None:
    assert normlab.Client().experiments is not None
    assert set(normlab.__all__) <= set(vars(normlab))
    assert normlab.__version__
