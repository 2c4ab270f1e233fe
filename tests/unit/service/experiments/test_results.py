"""Jobs become a table: each job in its cell, with its value if it has one."""

from statistics import median
from typing import Any

import pytest

from service.experiments import results
from service.experiments.request import ExperimentRequest
from service.experiments.results import Question, ResultTable, tabulate
from service.experiments.runs import Run
from service.jobs import Status
from worker.spec import TrainingSpec


def run(number: int, error: float | None = 0.5, status: Status = Status.SUCCEEDED, **fields: Any) -> Run:
    given: dict[str, Any] = {"normalization": {"type": "batch"}, "batch_size": 2} | fields
    spec = TrainingSpec.model_validate(given).model_dump(mode="json")
    summary = {} if error is None else {"test_error": {"best": error / 2, "last": error, "last_5": [error, error / 4]}}
    return Run(f"job_{number}", status, spec["seed"], spec, summary)


def values(table: ResultTable) -> list[float | None]:
    return [observation.value for observation in table.observations]


GROUP = {"type": "group"}


def test_every_job_is_in_its_cell_rows_as_they_came_and_numbers_by_size() -> None:
    runs = [
        run(1, normalization=GROUP, batch_size=32),
        run(2, batch_size=4),
        run(3, batch_size=128),
        run(4, batch_size=4, seed=1),
    ]
    table = tabulate(runs, Question())
    assert list(table.rows) == ["group (8)", "batch"]
    assert list(table.columns.items()) == [("4", 4), ("32", 32), ("128", 128)]
    assert {cell: [r.id for r in found] for cell, found in table.cells.items()} == {
        ("group (8)", "32"): ["job_1"],
        ("batch", "4"): ["job_2", "job_4"],
        ("batch", "128"): ["job_3"],
    }
    assert [(o.row, o.column, o.seed, o.job) for o in table.observations][1:] == [
        ("batch", "4", 0, "job_2"),
        ("batch", "4", 1, "job_4"),
        ("batch", "128", 0, "job_3"),
    ]
    assert not table.pooled


@pytest.mark.parametrize(("statistic", "value"), [("final", 0.4), ("best", 0.2), ("median_last_5", median([0.4, 0.1]))])
def test_a_statistic_chooses_the_value(statistic: Any, value: float) -> None:
    assert values(tabulate([run(1, 0.4)], Question(statistic=statistic))) == [value]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.SUCCEEDED, [0.5]),
        (Status.FAILED, [None]),
        (Status.CANCELLED, [None]),
        (Status.RUNNING, []),
        (Status.QUEUED, []),
        (Status.PAUSED, []),
    ],
)
def test_a_job_has_a_value_once_it_has_succeeded(status: Status, expected: list[float | None]) -> None:
    assert values(tabulate([run(1, status=status)], Question())) == expected


def test_a_job_that_never_reported_the_metric_has_no_value() -> None:
    assert values(tabulate([run(1, None)], Question())) == [None]
    assert values(tabulate([run(1)], Question(metric="test_loss"))) == [None]
    without = run(1)
    del without.summary["test_error"]["last_5"]
    assert values(tabulate([without], Question(statistic="median_last_5"))) == [None]


def test_at_a_step_a_job_has_a_value_as_soon_as_it_passed_it() -> None:
    runs = [run(1, status=Status.RUNNING), run(2, status=Status.RUNNING, seed=1), run(3, seed=2), run(4, seed=3)]
    table = tabulate(runs, Question(statistic="at_step", step=9), {"job_1": 0.25, "job_3": None})
    assert [(o.job, o.value) for o in table.observations] == [("job_1", 0.25), ("job_3", None), ("job_4", None)]


def test_the_metric_is_the_test_error_of_all_jobs_that_were_tested() -> None:
    held_out = {"name": "cifar10", "holdout": 100}
    untested = run(1, dataset=held_out | {"test_limit": 0})
    of_an_earlier_version = run(2, None, dataset=held_out)
    of_an_earlier_version.summary["holdout_error"] = {"best": 0.4, "last": 0.5}

    def metric(*runs: Run) -> str | None:
        return tabulate(runs, Question()).question.metric

    assert metric() == metric(run(1)) == metric(run(1, dataset=held_out)) == "test_error"
    assert metric(run(3, None, dataset=held_out)) == "test_error", "it is not evaluated yet"
    for one in (untested, of_an_earlier_version):
        assert metric(one) == metric(one, run(3, dataset=held_out)) == "holdout_error"
        assert metric(one, run(3)) == "test_error"
    assert tabulate([run(1)], Question(metric="train_loss")).question.metric == "train_loss"


def test_the_title_of_the_best_epoch_says_what_chose_it() -> None:
    best, held_out = Question(statistic="best"), run(1, dataset={"name": "cifar10", "holdout": 100})
    for runs, title in (
        ([], "best epoch (optimistic: chosen on the test set)"),
        ([run(2)], "best epoch (optimistic: chosen on the test set)"),
        ([held_out], "best epoch (chosen on the holdout)"),
        ([held_out, run(2)], "best epoch (optimistic: chosen on the test set; other jobs: chosen on the holdout)"),
    ):
        assert tabulate(runs, best).statistic_title == title
    assert tabulate([run(2)], Question(statistic="best", metric="train_loss")).statistic_title == "best epoch"
    assert tabulate([held_out], Question()).statistic_title == "after the last epoch"


class TestPooling:
    def test_jobs_of_one_cell_that_differ_in_more_than_the_seed_are_told(self) -> None:
        runs = [run(n, model=model, epochs=epochs) for n, (model, epochs) in enumerate([("vgg", 3), ("resnet20", 3)])]
        table = tabulate(runs, Question())
        assert table.pooled == ["model"]
        assert not tabulate(runs, Question(columns="model")).pooled
        assert not tabulate(runs, Question(where={"model": ["vgg"]})).pooled

    def test_pairs_are_of_one_seed_and_configuration(self) -> None:
        runs = [
            run(10 * i + j, normalization=norm, model=model)
            for i, norm in enumerate([GROUP, {"type": "batch"}])
            for j, model in enumerate(["vgg", "resnet20"])
        ]
        blocks = {o.job: o.seed for o in tabulate(runs, Question()).observations}
        assert blocks["job_0"] == blocks["job_10"] != blocks["job_1"] == blocks["job_11"]

    def test_rows_that_differ_in_more_than_the_row_are_compared_by_seed(self) -> None:
        runs = [
            run(1, seed=7),
            run(2, seed=7, normalization=GROUP, optimizer={"type": "sgd", "learning_rate": 0.3}),
        ]
        table = tabulate(runs, Question())
        assert not table.pooled
        assert {observation.seed for observation in table.observations} == {7}

    def test_a_field_within_a_part_is_an_axis_and_the_rest_of_the_part_is_not(self) -> None:
        def optimizer(rate: float, momentum: float) -> dict[str, Any]:
            return {"type": "sgd", "learning_rate": rate, "momentum": momentum}

        question = Question(columns="optimizer.learning_rate")
        runs = [run(1, optimizer=optimizer(0.1, 0.9)), run(2, optimizer=optimizer(0.2, 0.9))]
        assert not tabulate(runs, question).pooled
        runs.append(run(3, optimizer=optimizer(0.2, 0.5)))
        assert tabulate(runs, question).pooled == ["optimizer"]

    def test_a_recipe_and_how_often_checkpoints_are_taken_make_no_difference(self) -> None:
        runs = [run(1), run(2, seed=1, checkpoint={"keep_last": 5})]
        assert not tabulate(runs, Question()).pooled


def test_where_keeps_the_jobs_with_a_label() -> None:
    runs = [run(n, optimizer={"type": "sgd", "learning_rate": rate}) for n, rate in enumerate((0.1, 0.2, 0.3))]
    table = tabulate(runs, Question(where={"optimizer.learning_rate": ["0.1", "0.3"]}))
    assert [r.id for r in table.runs] == ["job_0", "job_2"]
    assert tabulate(runs, Question(where={"model": ["vgg"]})).cells == {}


def test_specs_of_an_older_release_are_read_as_far_as_they_are_understood() -> None:
    known = [run(1), run(2, seed=5)]
    old = Run("job_3", Status.SUCCEEDED, 0, {"normalization": {"type": "gone"}, "seed": 0}, {})
    first, second, third = results.trainings([*known, old])
    assert first == TrainingSpec.model_validate(known[0].spec)
    assert second == TrainingSpec.model_validate(known[1].spec)
    assert third is None


class TestSequential:
    REQUEST = ExperimentRequest.model_validate({"seeds": {"min": 3, "max": 6}, "outcome": {"statistic": "best"}})

    def test_seeds_have_a_plan(self) -> None:
        plan = results.seed_plan(self.REQUEST)
        assert plan is not None
        assert plan.seeds == (0, 1, 2, 3, 4, 5)
        assert (plan.analyses[0], plan.analyses[-1]) == (3, 6)
        assert results.seed_plan(ExperimentRequest()) is None


def test_jobs_of_an_earlier_release_have_the_defaults_of_the_fields_that_were_added() -> None:
    runs = [run(1), run(2, seed=1)]
    for name in ("label_smoothing", "ema"):
        del runs[1].spec[name]

    assert not tabulate(runs, Question()).pooled
    assert list(tabulate(runs, Question(rows="label_smoothing")).rows.items()) == [("0", 0.0)]
    assert list(tabulate(runs, Question(rows="ema")).rows) == ["null"]
    assert tabulate([runs[1], run(3, label_smoothing=0.1)], Question()).pooled == ["label_smoothing"]
