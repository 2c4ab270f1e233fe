"""Tuned experiments on a terminal: the search, its choices, and both tables."""

from typing import Any

import pytest

from service.cli.exits import Exit
from service.cli.grids import choice_text, preview_table, results_grid, search_text
from service.cli.output import WIDTH_OF_A_PIPE, Output
from tests.unit.service.cli.test_experiments import CELL, DONE, RESULTS
from tests.unit.service.conftest import Run
from tests.unit.service.stand_in import Answer, StandIn

CHOICE: dict[str, Any] = {
    "row": "batch",
    "column": None,
    "has_ended": True,
    "label": "learning_rate 0.1",
    "values": {"optimizer.learning_rate": 0.1},
    "edges": [],
    "reason": None,
}
TUNING: dict[str, Any] = {
    "over": [{"field": "optimizer.learning_rate", "values": [{"label": "0.1"}, {"label": "1"}]}],
    "jobs": 24,
    "ended": 12,
    "device_s": 187.0,
    "missing": 4,
    "choices": [CHOICE, CHOICE | {"column": "4", "label": None, "values": None, "reason": "All of them failed."}],
}
PREVIEW: dict[str, Any] = {
    "jobs": [{}] * 32,
    "cells": 4,
    "most_jobs": 40,
    "tuning": {"search_jobs": 24, "untuned_jobs": 8, "tuned_jobs": 8, "search_device_s": 187.0},
    "cost": {"device_s": 600.0, "elapsed_s": None, "slots": None, "basis": "Based on one job."},
    "precision": None,
    "warnings": [],
}


def printed(renderable: Any) -> str:
    plain = Output(width=WIDTH_OF_A_PIPE, force_terminal=False, color_system=None)
    with plain.capture() as captured:
        plain.print(renderable)
    return captured.get()


def test_a_search_is_told_with_its_cost() -> None:
    done = "12 of 24 jobs, 3:07 of computing, over optimizer.learning_rate (2 values)"
    assert search_text(TUNING) == f"{done}; 4 tuned jobs wait for it"
    assert search_text(TUNING | {"missing": 0}) == done


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "learning_rate 0.1"),
        ({"edges": ["optimizer.learning_rate"]}, "learning_rate 0.1 (at the edge of what was searched)"),
        ({"values": None, "label": None}, "still searched"),
        ({"values": None, "label": None, "reason": "All failed."}, "All failed."),
    ],
)
def test_a_choice_is_told_with_its_reservations(changed: dict[str, Any], text: str) -> None:
    assert choice_text(CHOICE | changed) == text


def test_results_have_both_tables_and_the_choices() -> None:
    untuned = CELL | {"mean": 0.75, "interval": None}
    text = printed(results_grid(RESULTS | {"stage": "tuned", "tuning": TUNING, "beside": [untuned]}))
    assert "on synthetic, tuned" in text
    assert "50.00 ± 10.00 (2)" in text.partition("\nuntuned\n")[0]
    assert "75.00 (2)" in text.partition("\nuntuned\n")[2]
    assert "batch: learning_rate 0.1\n" in text
    assert "batch at 4: All of them failed.\n" in text
    alone = printed(results_grid(RESULTS | {"stage": "tuned", "tuning": TUNING}))
    assert "\nuntuned\n" not in alone


def test_a_dry_run_tells_the_jobs_by_stage() -> None:
    lines = [" ".join(line.split()) for line in printed(preview_table(PREVIEW)).splitlines()]
    assert "would create 32 jobs in 4 cells, up to 40 once the search has ended" in lines
    assert "of which 24 search (3:07), 8 untuned, 8 tuned" in lines


@pytest.mark.parametrize(
    ("choices", "counts", "code"),
    [
        ([CHOICE], {"succeeded": 2}, Exit.OK),
        (TUNING["choices"], {"succeeded": 2}, Exit.FAILED),
        ([CHOICE], {"succeeded": 1, "failed": 1}, Exit.FAILED),
    ],
    ids=["a value diverged in the search", "a row found none", "a tuned job failed"],
)
def test_a_search_may_have_failures_but_no_row_without_values(
    run: Run, service: StandIn, choices: list[Any], counts: dict[str, int], code: Exit
) -> None:
    tuning = TUNING | {"choices": choices}
    ended = DONE | {"counts": {"succeeded": 4, "failed": 2}, "tuning": tuning}
    service.on("GET", "/v1/experiments/experiment_1", Answer(ended))
    found = RESULTS | {"stage": "tuned", "tuning": tuning, "cells": [CELL | {"counts": counts}]}
    service.on("GET", "/v1/experiments/experiment_1/results", Answer(found))
    assert run("--url", service.url, "experiment", "watch", "experiment_1").code == code


def test_the_untuned_table_is_asked_for_by_name(run: Run, service: StandIn) -> None:
    service.on("GET", "/v1/experiments/experiment_1/results", Answer(RESULTS))
    assert run("--url", service.url, "results", "experiment_1", "--stage", "untuned").code == Exit.OK
    assert service.requests[-1].query["stage"] == ["untuned"]
    refused = run("--url", service.url, "results", "--stage", "untuned")
    assert (refused.code, "give its id too" in refused.err) == (Exit.INVALID, True)
