"""Results as records, data frames and a table of HTML."""

import pytest

import normlab
from service.client.results import Results, ResultTable
from tests.unit.service.stand_in import Json

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


def test_the_module_has_the_client_and_its_version() -> None:
    assert normlab.Client().experiments is not None
    assert set(normlab.__all__) <= set(vars(normlab))
    assert normlab.__version__
