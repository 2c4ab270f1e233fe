"""What a table of results is warned of, beside the confounds of its jobs."""

from typing import Any

import pytest

from service.experiments import results
from service.experiments.confounds import Confound
from service.experiments.request import ExperimentRequest
from service.experiments.results import Question, tabulate
from service.experiments.runs import Run
from service.experiments.statistics import analyse
from service.experiments.table_warnings import CODES, table_warnings
from service.jobs import Status
from tests.unit.service.experiments.test_results import GROUP, run


def warned(runs: list[Run], question: Question, declared: Question | None = None) -> dict[str, Confound]:
    table = tabulate(runs, question)
    analysis = analyse(table.observations, cells=list(table.cells))
    found = table_warnings(table, analysis.cells, confidence=0.95, declared=declared)
    assert [one.code for one in found] == [code for code in CODES if code in {one.code for one in found}]
    return {one.code: one for one in found}


def seeds(number: int, *, failed: int = 0, **fields: Any) -> list[Run]:
    """Jobs of one cell; the first ones failed."""
    first = 100 * len(fields)
    return [
        run(first + seed, None if seed < failed else 0.2 + seed / 100, state, seed=seed, **fields)
        for seed in range(number)
        for state in (Status.FAILED if seed < failed else Status.SUCCEEDED,)
    ]


def test_an_orderly_table_is_not_warned_of() -> None:
    assert not warned(seeds(3) + seeds(3, normalization=GROUP), Question())


def test_jobs_of_one_cell_that_differ_in_more_than_the_seed() -> None:
    runs = [run(n, model=model) for n, model in enumerate(["vgg", "resnet20"])]
    assert "differ in model:" in warned(runs, Question())["pooled"].detail
    assert "pooled" not in warned(runs, Question(columns="model"))


@pytest.mark.parametrize(
    "asked", [{"statistic": "final"}, {"statistic": "best", "metric": "test_loss"}, {"rows": "model"}]
)
def test_another_question_than_sequential_seeds_were_planned_for(asked: dict[str, Any]) -> None:
    request = ExperimentRequest.model_validate({"seeds": {"min": 3, "max": 6}, "outcome": {"statistic": "best"}})
    declared = results.question_of(request)
    assert "outcome_not_declared" not in warned([run(1)], declared, declared)
    assert "to resolve best test_" in warned([run(1)], Question(**asked), declared)["outcome_not_declared"].detail


def test_the_best_epoch_is_chosen_on_the_test_set() -> None:
    assert "optimistic" in warned([run(1)], Question(statistic="best"))["selected_on_the_test_set"].detail
    held_out = run(1, dataset={"name": "cifar10", "holdout": 100})
    for other in (Question(), Question(statistic="best", metric="train_loss")):
        assert not warned([run(1)], other)
    assert "selected_on_the_test_set" not in warned([held_out], Question(statistic="best"))
    mixed = warned([held_out, run(2, seed=1)], Question(statistic="best"))["selected_on_the_test_set"]
    assert "from 1 jobs without a holdout" in mixed.detail
    assert mixed.jobs == ("job_2",)


def test_failed_seeds_are_told_with_the_interval_of_their_share() -> None:
    runs = seeds(5, failed=2) + seeds(5, normalization=GROUP)
    warning = warned(runs, Question())["failed_seeds"]
    assert "2 of 5 seeds of batch at 2 (95 % interval 12 to 77 %)" in warning.detail
    assert "usually the better ones" in warning.detail
    assert warning.jobs == ("job_0", "job_1")
    counted = warned(runs, Question(failed="chance"))
    assert "count as the error of a guess" in counted["failed_seeds"].detail
    assert "unequal_seeds" not in counted


def test_a_cancelled_seed_is_missing_and_has_not_failed() -> None:
    runs = [*seeds(3), run(9, None, Status.CANCELLED, seed=3), *seeds(4, normalization=GROUP)]
    found = warned(runs, Question())
    assert list(found) == ["unequal_seeds"]
    assert "from 3 to 4 seeds" in found["unequal_seeds"].detail


def test_seeds_that_still_run_are_not_missing() -> None:
    runs = [*seeds(3), run(9, None, Status.RUNNING, seed=3), *seeds(4, normalization=GROUP)]
    assert not warned(runs, Question())
