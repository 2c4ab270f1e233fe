"""Several experiments in one table: which cells are compared, and what is warned of."""

from typing import Any

import pytest
from scipy import stats

from service.experiments.compared import CODES, Member, compared_warnings, differences
from service.experiments.confounds import Confound
from service.experiments.results import Question, tabulate
from service.experiments.runs import Run
from tests.unit.service.experiments.test_results import GROUP, run

FIRST = [0.30, 0.33, 0.31]
SECOND = [0.20, 0.22, 0.21]


def member(name: str, runs: list[Run], *, sequential: bool = False) -> Member:
    return Member(name, f"study {name}", tabulate(runs, Question()), sequential)


def cell(first: int, errors: list[float], **fields: Any) -> list[Run]:
    return [run(first + seed, error, seed=seed, **fields) for seed, error in enumerate(errors)]


def warned(*members: Member) -> dict[str, Confound]:
    return {one.code: one for one in compared_warnings(members)}


def test_equal_cells_are_compared_paired_over_seeds_and_adjusted_together() -> None:
    a = member("a", cell(0, FIRST) + cell(10, FIRST, normalization=GROUP))
    b = member(
        "b", cell(20, SECOND) + cell(30, [0.31, 0.32, 0.31], normalization=GROUP) + cell(40, SECOND, batch_size=8)
    )
    found = differences([a, b], confidence=0.95)
    assert [(one.row, one.column) for one in found.differences] == [("batch", "2"), ("group (8)", "2")]
    first, second = (one.comparison for one in found.differences)
    assert (first.row_a, first.row_b, first.n, found.family_size) == ("a", "b", 3, 2)
    assert first.difference == pytest.approx(0.31333 - 0.21, abs=1e-4)
    p = stats.ttest_rel(FIRST, SECOND).pvalue
    assert first.p == pytest.approx(p)
    assert first.p_adjusted == pytest.approx(2 * p)
    assert first.resolved
    assert not second.resolved
    # The sign follows the order of the experiments.
    turned = differences([b, a], confidence=0.95).differences[0].comparison
    assert turned.difference == pytest.approx(-(first.difference or 0))


def test_a_cell_of_three_experiments_has_three_differences() -> None:
    members = [member(name, cell(10 * n, [0.1 * n + x for x in FIRST])) for n, name in enumerate("abc")]
    pairs = [(one.comparison.row_a, one.comparison.row_b) for one in differences(members, confidence=0.9).differences]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]


def test_one_setting_that_differs_is_what_the_difference_shows() -> None:
    finding = warned(member("a", cell(0, FIRST)), member("b", cell(10, SECOND, model="vgg")))["experiments_differ"]
    assert finding.severity == "note"
    assert "model resnet20 (study a), vgg (study b)" in finding.detail
    assert "is that of this setting" in finding.detail
    assert set(finding.jobs) == {"job_0", "job_1", "job_2", "job_10", "job_11", "job_12"}


def test_several_settings_that_differ_cannot_be_separated() -> None:
    other = cell(10, SECOND, model="vgg", epochs=7, optimizer={"type": "sgd", "learning_rate": 0.4})
    finding = warned(member("a", cell(0, FIRST)), member("b", other))["experiments_differ"]
    assert finding.severity == "warning"
    assert "epochs" in finding.detail
    assert "optimizer.learning_rate" in finding.detail
    assert "cannot be separated" in finding.detail


def test_settings_of_cells_that_only_one_experiment_has_do_not_matter() -> None:
    a = member("a", cell(0, FIRST))
    b = member("b", cell(10, SECOND) + cell(20, SECOND, normalization=GROUP, model="vgg"))
    assert "experiments_differ" not in warned(a, b)


def test_equal_experiments_are_not_warned_of_and_no_job_repeats_another() -> None:
    codes = warned(member("a", cell(0, FIRST)), member("b", cell(10, SECOND)))
    assert not codes.keys() & {*CODES, "repeated_job"}


def test_experiments_without_a_common_cell_have_no_differences() -> None:
    members = [member("a", cell(0, FIRST)), member("b", cell(10, SECOND, batch_size=8))]
    assert not differences(members, confidence=0.95).differences
    assert "No normalization at a batch_size" in warned(*members)["nothing_shared"].detail


def test_cells_of_several_configurations_are_not_paired() -> None:
    members = [member("a", cell(0, FIRST) + cell(10, FIRST, model="vgg")), member("b", cell(20, SECOND))]
    assert not differences(members, confidence=0.95).differences
    assert "model (study a)" in warned(*members)["not_paired"].detail


def test_seeds_that_depend_on_the_values_are_named() -> None:
    members = [member("a", cell(0, FIRST), sequential=True), member("b", cell(10, SECOND))]
    assert "study a" in warned(*members)["sequential_seeds"].detail
