"""The search of a tuned experiment: its jobs, what wins, and the jobs that follow."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import Conflict, FieldError, InvalidFields
from service.experiments.request import MAX_JOBS, ExperimentRequest, PlannedJob, cell_of
from service.experiments.results import CHANCE_ERROR
from service.experiments.runs import Run
from service.experiments.search import Choice, Search, first_jobs, search_of
from service.experiments.tune import FIRST_SEED, LogGrid, Tune
from service.jobs import Status

GRID: dict[str, Any] = {
    "normalization": [{"type": "batch"}, {"type": "group"}],
    "batch_size": [2, 32],
    "seed": [0, 1],
}
OVER: dict[str, Any] = {"optimizer.learning_rate": [0.01, 0.1, 1.0], "normalization.momentum": [0.1, 0.3]}


def request(*, over: dict[str, Any] = OVER, grid: dict[str, Any] = GRID, **fields: Any) -> ExperimentRequest:
    tune = {"over": over} | fields.pop("tune", {})
    return ExperimentRequest.model_validate({"grid": grid, "tune": tune} | fields).resolved()


def errors(**fields: Any) -> list[FieldError]:
    with pytest.raises(InvalidFields) as raised:
        first_jobs(request(**fields))
    return raised.value.fields


def run_of(job: PlannedJob, error: float | None, status: Status = Status.SUCCEEDED) -> Run:
    spec = job.request.training.model_dump(mode="json")
    summary = {} if error is None else {"holdout_error": {"best": error, "last": error}, "test_error": {"last": error}}
    return Run(f"job_{id(job)}", status, job.request.seed, spec, summary, device_s=1.0, cell=job.cell)


Error = Callable[[PlannedJob], float | None]


def searched(search: Search, error: Error) -> list[Run]:
    """The jobs of the search, ended; one without an error failed."""
    return [
        run_of(job, value, Status.FAILED if value is None else Status.SUCCEEDED)
        for part in search.parts
        for candidate in part.candidates
        for job in candidate.jobs
        for value in [error(job)]
    ]


def rate_of(job: PlannedJob) -> float:
    return job.request.optimizer.learning_rate


def distance(best: float) -> Error:
    """The error grows with the distance from the best learning rate."""
    return lambda job: min(0.9, abs(rate_of(job) - best))


def chosen(choices: list[Choice]) -> dict[tuple[str, str | None], dict[str, Any] | None]:
    return {(one.part.row, one.part.column): None if one.values is None else dict(one.values) for one in choices}


def test_every_combination_of_a_row_trains_on_fewer_images_for_fewer_epochs_with_seeds_of_its_own() -> None:
    wanted = request(base={"epochs": 10, "labels": {"a": "b"}}, tune={"epochs": 0.25, "holdout": 4000})
    search = search_of(wanted)
    batch, group = search.parts
    assert [(part.row, part.column) for part in search.parts] == [("batch", None), ("group (8)", None)]
    assert [len(part.candidates) for part in search.parts] == [6, 3], "group has no momentum"
    assert [len(candidate.jobs) for candidate in batch.candidates] == [2 * 2] * 6
    for part in (batch, group):
        for candidate in part.candidates:
            for job in candidate.jobs:
                spec = job.request
                assert (spec.dataset.holdout, spec.dataset.num_test, spec.epochs) == (4000, 0, 2)
                assert spec.seed in (FIRST_SEED, FIRST_SEED + 1)
                assert rate_of(job) == candidate.values["optimizer.learning_rate"]
                assert spec.labels == {"a": "b", "tune": "search"}
    planned = search.first_jobs()
    assert len(planned) == (6 + 3) * 4 + 2 * 2 * 2
    assert [job.request.labels["tune"] for job in planned[-8:]] == ["untuned"] * 8
    assert {(job.request.dataset.holdout, job.request.epochs) for job in planned[-8:]} == {(0, 10)}
    assert len({(job.cell, job.request.seed) for job in planned}) == len(planned)


def test_without_a_comparison_only_the_search_is_queued() -> None:
    wanted = request(tune={"compare": False})
    assert {job.request.labels["tune"] for job in first_jobs(wanted)} == {"search"}
    assert len(search_of(wanted).later_jobs()) == 8


def test_a_budget_scales_the_search_too() -> None:
    search = search_of(request(base={"epochs": 100}, budget=0.25, tune={"epochs": 0.5}))
    spec = search.parts[0].candidates[0].jobs[0].request
    assert (spec.epochs, spec.dataset.holdout, spec.dataset.num_train) == (25, 2500, 22_500)
    assert search.parts[0].declared[0].request.epochs == 50


def test_the_jobs_follow_from_the_request_alone() -> None:
    stored = request().model_dump(mode="json", exclude_unset=True)
    again = ExperimentRequest.model_validate(stored)
    assert [job.cell for job in first_jobs(again)] == [job.cell for job in first_jobs(request())]


class TestChoice:
    def test_the_lowest_mean_error_over_seeds_and_columns_wins(self) -> None:
        search = search_of(request())

        def error(job: PlannedJob) -> float:
            # At 2 images the smallest rate is best, at 32 the middle one, and by more.
            best = {2: 0.01, 32: 0.1}[job.request.batch_size]
            return 0.2 + (0 if rate_of(job) == best else 0.1 if job.request.batch_size == 2 else 0.3)

        row = search.choices(searched(search, error))
        assert [(one.values or {})["optimizer.learning_rate"] for one in row] == [0.1, 0.1]
        assert [score.error for score in row[1].scores] == pytest.approx([0.35, 0.25, 0.4])
        cells = search_of(request(tune={"per": "cell"}))
        found = chosen(cells.choices(searched(cells, error)))
        assert {place: (values or {})["optimizer.learning_rate"] for place, values in found.items()} == {
            ("batch", "2"): 0.01,
            ("batch", "32"): 0.1,
            ("group (8)", "2"): 0.01,
            ("group (8)", "32"): 0.1,
        }

    def test_of_equals_the_first_wins(self) -> None:
        search = search_of(request())
        assert all(
            one.values == one.part.candidates[0].values for one in search.choices(searched(search, lambda _: 0.3))
        )

    def test_a_value_at_the_edge_is_named(self) -> None:
        search = search_of(request())
        inner, edge = (search.choices(searched(search, distance(best)))[1] for best in (0.1, 1.0))
        assert (list(inner.edges), list(edge.edges)) == ([], ["optimizer.learning_rate"])
        modes = search_of(request(over={"optimizer.nesterov": [True, False], "optimizer.weight_decay": [0.0]}))
        assert all(not one.edges for one in modes.choices(searched(modes, lambda _: 0.1))), "there is no edge"

    def test_nothing_is_chosen_before_the_search_of_the_part_has_ended(self) -> None:
        search = search_of(request())
        runs = searched(search, distance(0.1))
        index = next(n for n, run in enumerate(runs) if run.spec["normalization"]["type"] == "group")
        runs[index] = run_of(search.parts[1].candidates[0].jobs[0], None, Status.RUNNING)
        batch, group = search.choices(runs)
        assert (batch.has_ended, batch.values is not None) == (True, True)
        assert (group.has_ended, group.values, group.reason) == (False, None, None)
        assert search.ended(frozenset({search.parts[1].candidates[0].jobs[0].cell})) == [search.parts[0]]

    def test_a_failed_job_counts_as_a_guess_and_a_value_whose_jobs_all_failed_cannot_win(self) -> None:
        search = search_of(request(over={"optimizer.learning_rate": [0.01, 0.1]}))

        def error(job: PlannedJob) -> float | None:
            if rate_of(job) == 0.1:
                return None
            return None if job.request.seed == FIRST_SEED else 0.95

        for one in search.choices(searched(search, error)):
            assert one.values == {"optimizer.learning_rate": 0.01}
            worse, failed = one.scores
            assert worse.error == pytest.approx((0.95 + CHANCE_ERROR) / 2)
            assert (worse.n, worse.failed) == (2, 2)
            assert (failed.error, failed.n, failed.failed) == (None, 0, 4)

    def test_without_a_winner_there_are_no_jobs_and_there_is_a_reason(self) -> None:
        search = search_of(request())
        runs = searched(search, lambda job: None if job.request.normalization.type == "batch" else 0.2)
        batch, group = search.choices(runs)
        assert batch.values is None
        assert batch.reason is not None
        assert "24 of 24 jobs of the search failed" in batch.reason
        assert search.tuned_jobs(batch) == []
        assert len(search.tuned_jobs(group)) == 4

    def test_a_value_without_a_job_in_some_column_cannot_win(self) -> None:
        search = search_of(request(over={"optimizer.learning_rate": [0.01, 0.1]}))
        runs = [
            run
            for run in searched(search, distance(0.1))
            if not (run.spec["batch_size"] == 2 and run.spec["optimizer"]["learning_rate"] == 0.1)
        ]
        assert chosen(search.choices(runs))["batch", None] == {"optimizer.learning_rate": 0.01}

    def test_what_jobs_were_trained_with_stays(self) -> None:
        search = search_of(request())
        first = search.choices(searched(search, distance(0.1)))
        trained = [run_of(job, 0.1) for choice in first for job in search.tuned_jobs(choice)]
        later = search.choices([*searched(search, distance(1.0)), *trained])
        assert chosen(later) == chosen(first)

    def test_whole_parts_can_be_chosen(self) -> None:
        optimizers = [{"type": "sgd", "learning_rate": 0.2}, {"type": "adam", "learning_rate": 0.01}]
        search = search_of(request(over={"optimizer": optimizers}))
        runs = searched(search, lambda job: 0.1 if job.request.optimizer.type == "adam" else 0.2)
        first = search.choices(runs)
        trained = [run_of(job, 0.1) for choice in first for job in search.tuned_jobs(choice)]
        assert {run.spec["optimizer"]["type"] for run in trained} == {"adam"}
        assert chosen(search.choices([*runs, *trained])) == chosen(first)
        assert first[0].values == {"optimizer": optimizers[1]}


class TestTunedJobs:
    def test_they_train_with_the_seeds_of_the_grid_on_all_images(self) -> None:
        search = search_of(request())
        jobs = [job for one in search.choices(searched(search, distance(0.1))) for job in search.tuned_jobs(one)]
        untuned = search.untuned_jobs()
        assert [(job.request.normalization.type, job.request.batch_size, job.request.seed) for job in jobs] == [
            (job.request.normalization.type, job.request.batch_size, job.request.seed) for job in untuned
        ]
        for job, given in zip(jobs, untuned, strict=True):
            assert (rate_of(job), job.request.dataset, job.request.epochs) == (
                0.1,
                given.request.dataset,
                given.request.epochs,
            )
            assert job.request.labels["tune"] == "tuned"
            assert job.cell == cell_of(given.coordinates, "tuned") != given.cell

    def test_they_are_in_the_rows_as_given_also_where_a_part_of_the_row_was_tuned(self) -> None:
        search = search_of(request(over={"normalization.momentum": [0.2, 0.3]}))
        runs = searched(search, lambda _: 0.1)
        tuned = [run_of(job, 0.1) for one in search.choices(runs) for job in search.tuned_jobs(one)]
        assert {run.spec["normalization"]["momentum"] for run in tuned} == {0.2}
        untuned = [run_of(job, 0.2) for job in search.untuned_jobs()]
        shown = search.at_stage([*runs, *tuned, *untuned], "tuned")
        assert {run.spec["normalization"].get("momentum") for run in shown} == {0.1, None}
        assert {search.stage_of(run) for run in tuned} == {"tuned"}
        assert {run.seed for run in shown} == {0, 1}
        assert len(shown) == 4 + 4, "group has nothing to tune, so its untuned jobs count"
        assert len(search.at_stage([*runs, *tuned, *untuned], "untuned")) == 8

    def test_a_row_with_nothing_to_tune_trains_once(self) -> None:
        search = search_of(request(over={"normalization.momentum": [0.2, 0.3]}))
        _, group = search.choices([])
        assert (group.has_ended, group.values, search.tuned_jobs(group)) == (True, {}, [])
        alone = search_of(request(over={"normalization.momentum": [0.2, 0.3]}, tune={"compare": False}))
        assert len(alone.tuned_jobs(alone.choices([])[1])) == 4

    def test_more_seeds_change_nothing_that_is_there(self) -> None:
        longer = request().extended({"seed": [2]})
        before = {(job.cell, job.request.seed) for job in first_jobs(request())}
        after = {(job.cell, job.request.seed) for job in first_jobs(longer)}
        assert before < after
        assert {seed for _, seed in after - before} == {2}
        with pytest.raises(Conflict, match="only seeds can be added"):
            request().extended({"batch_size": [4]})


def test_the_search_removes_the_confounds_that_it_answers() -> None:
    rate = {"optimizer.learning_rate": [0.1, 0.2]}
    assert search_of(request(over=rate)).removed_confounds == {"shared_hyperparameters"}
    assert "learning_rate_not_scaled" in search_of(request(over=rate, tune={"per": "cell"})).removed_confounds
    assert search_of(request(over={"optimizer.weight_decay": [0.0, 0.1]})).removed_confounds == frozenset()


@pytest.mark.parametrize(
    ("fields", "path", "sentence"),
    [
        ({"over": {"seed": [1]}}, ("tune", "over", "seed"), "seed cannot be tuned: give one of"),
        ({"over": {"optimizer.rate": [1]}}, ("tune", "over", "optimizer.rate"), "cannot be tuned"),
        ({"over": {"batch_size": [1]}}, ("tune", "over", "batch_size"), "the grid has batch_size already"),
        (
            {"over": {"optimizer.learning_rate": [0.1, -1]}},
            ("tune", "over", "optimizer.learning_rate", 1),
            "learning_rate is -1: input should be greater than 0.",
        ),
        (
            {"over": {"optimizer.learning_rate": [0.1, 0.1]}},
            ("tune", "over", "optimizer.learning_rate", 1),
            "has this value already, at 0",
        ),
        ({"over": {"normalization.alpha_forward": [0.9]}}, ("tune", "over", "normalization.alpha_forward"), "no job"),
        ({"tune": {"holdout": 50_000}}, ("tune", "holdout"), "holdout is 50000, which leaves none of 50000"),
        (
            {"base": {"dataset": {"train_limit": 100}}, "tune": {"holdout": 70}},
            ("tune", "holdout"),
            "in the search, batch_size is 32, larger than the 30 training images",
        ),
        ({"base": {"dataset": {"holdout": 5}}}, ("base", "dataset"), "tune holds images out by itself"),
        ({"base": {"labels": {"tune": "x"}}}, ("base", "labels", "tune"), "tune is the label of the stage of a job"),
        ({"grid": GRID | {"model": ["resnet20", "vgg"]}}, ("grid", "model"), "which has no axis for model"),
        ({"grid": GRID | {"seed": [FIRST_SEED]}}, ("grid", "seed"), "seed 100000 is one of the search"),
        (
            {"grid": {"batch_size": [2]}, "seeds": {"min": 2}},
            ("seeds",),
            "sequential seeds and tune exclude each other",
        ),
    ],
)
def test_what_cannot_be_searched_is_named(fields: dict[str, Any], path: tuple[Any, ...], sentence: str) -> None:
    found = [error for error in errors(**fields) if error.path == path]
    assert found
    assert sentence in found[0].detail


def test_there_is_a_largest_number_of_jobs() -> None:
    many = {"optimizer.learning_rate": {"from": 0.01, "to": 1, "points": 50}, "optimizer.momentum": [0.1, 0.2, 0.3]}
    [error] = errors(over=many)
    assert error == FieldError(
        ("tune",), f"1200 jobs of the search and 16 others make 1216 jobs: give at most {MAX_JOBS}"
    )


class TestLogGrid:
    def test_has_equal_ratios_between_its_ends(self) -> None:
        assert LogGrid.model_validate({"from": 0.01, "to": 1, "points": 5}).values == [0.01, 0.03162, 0.1, 0.3162, 1]
        tune = Tune.model_validate({"over": {"optimizer.weight_decay": {"from": 1e-5, "to": 1e-3, "points": 3}}})
        assert tune.over == {"optimizer.weight_decay": [1e-5, 1e-4, 1e-3]}

    @pytest.mark.parametrize(
        "given",
        [
            {"from": 1, "to": 0.1, "points": 3},
            {"from": 0, "to": 1, "points": 3},
            {"from": 0.1, "to": 1, "points": 1},
            {"from": 0.1, "to": 1},
            {"from": 1e-320, "to": 1e300, "points": 3},
        ],
    )
    def test_names_what_it_accepts(self, given: dict[str, Any]) -> None:
        with pytest.raises(ValidationError, match=r"give a list of values, or \{from, to, points\} with 0 < from < to"):
            Tune.model_validate({"over": {"optimizer.learning_rate": given}})

    def test_lists_and_grids_only(self) -> None:
        for over in ({"optimizer.learning_rate": 0.1}, {}, [0.1]):
            with pytest.raises(ValidationError):
                Tune.model_validate({"over": over})
