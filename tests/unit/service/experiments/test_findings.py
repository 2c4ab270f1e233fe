"""The result of a table in one sentence, with its reservations."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from service.experiments.findings import headline
from service.experiments.results import Question, tabulate
from service.experiments.runs import Run
from service.experiments.statistics import analyse
from service.jobs import Status
from worker.spec import TrainingSpec

Errors = Mapping[tuple[str, int], Sequence[float | None]]


def said(errors: Errors, *, running: int = 0, datasets: Sequence[str] = ("cifar10",), **question: Any) -> str:
    """Return the headline of trainings with these errors by normalization and batch size, one per seed."""
    runs: list[Run] = []
    for (normalization, batch_size), values in errors.items():
        for seed, value in enumerate(values):
            given = {"normalization": {"type": normalization}, "batch_size": batch_size, "seed": seed}
            spec = TrainingSpec.model_validate(given).model_dump(mode="json")
            summary = {} if value is None else {"test_error": {"best": value, "last": value}}
            status = Status.RUNNING if len(runs) < running else Status.SUCCEEDED if value else Status.FAILED
            runs.append(Run(f"job_{len(runs)}", status, seed, spec, summary))
    table = tabulate(runs, Question(**question))
    return headline(table, analyse(table.observations, cells=list(table.cells)), datasets)


TWO = {
    ("batch", 32): [0.10, 0.11, 0.12],
    ("batch", 2): [0.30, 0.31, 0.33],
    ("group", 32): [0.11, 0.10, 0.125],
    ("group", 2): [0.12, 0.125, 0.13],
}


def test_it_is_the_largest_significant_difference() -> None:
    assert said(TWO) == (
        "At batch size 2, batch has 18.83 percentage points more test error than group (8) (95 % interval 16.25 to "
        "21.42, adjusted p = 0.0020, n = 3), the only significant difference in 2 comparisons."
    )
    three = TWO | {("layer", 32): [0.1, 0.101, 0.11], ("layer", 2): [0.50, 0.512, 0.531]}
    assert said(three).startswith("At batch size 2, layer has 38.93 percentage points more test error than group (8)")
    assert said(three).endswith(", the largest of 3 significant differences in 6 comparisons.")


def test_a_single_comparison_needs_no_rank() -> None:
    only = {cell: values for cell, values in TWO.items() if cell[1] == 2}
    assert said(only).endswith("n = 3).")


@pytest.mark.parametrize(
    ("errors", "sentence"),
    [
        ({("batch", 2): [0.3, 0.1], ("group", 2): [0.1, 0.3]}, "The only comparison is not significant."),
        (
            {("batch", 2): [0.30, 0.31, 0.33], ("group", 2): [0.28, 0.33, 0.30]},
            "The only comparison is not significant; at the observed spread, 27 more seeds would resolve it.",
        ),
        (
            {("batch", 2): [0.3, 0.1], ("group", 2): [0.1, 0.3], ("layer", 2): [0.2, 0.21]},
            "None of 3 comparisons is significant.",
        ),
        (
            {("batch", 2): [0.3], ("group", 2): [0.1]},
            "There are no comparisons yet: a comparison needs two rows with at least two common seeds.",
        ),
        (
            {("batch", 2): [0.3, 0.2], ("group", 2): [0.2, 0.1]},
            "No comparison can be tested: the differences do not vary between seeds.",
        ),
        ({("batch", 2): [None]}, "No job has a value yet."),
        ({}, "No job has a value yet."),
    ],
)
def test_it_says_that_nothing_is_significant_compared_or_known(errors: Errors, sentence: str) -> None:
    assert said(errors) == sentence


def test_reservations_follow_in_brackets() -> None:
    assert said(TWO, datasets=["cifar10", "synthetic"]).endswith(" comparisons [synthetic].")
    assert said(TWO, statistic="best").endswith(" [optimistic: chosen on the test set].")
    assert said(TWO, running=1).endswith(" [11 of 12 jobs have ended].")
    every = said(TWO, datasets=["synthetic"], statistic="best", running=1)
    assert every.endswith(" [synthetic; optimistic: chosen on the test set; 11 of 12 jobs have ended].")
