"""A grid expands into validated jobs, and an error names the value that causes it."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.errors import Conflict, FieldError, InvalidFields
from service.experiments.builtin import STUDIES
from service.experiments.confounds import Candidate, lint
from service.experiments.request import MAX_JOBS, ExperimentRequest, PlannedJob, expand
from service.jobs import JobRequest
from worker.architecture import ARCHITECTURES
from worker.normalizations.registry import NORMALIZATIONS

BATCH, GROUP = {"type": "batch"}, {"type": "group", "num_groups": 8}
GRID: dict[str, list[Any]] = {"normalization": [BATCH, GROUP], "batch_size": [2, 32]}


def request(**fields: Any) -> ExperimentRequest:
    return ExperimentRequest.model_validate({"grid": GRID} | fields).resolved()


def jobs(**fields: Any) -> list[PlannedJob]:
    return expand(request(**fields))


def errors(**fields: Any) -> list[FieldError]:
    with pytest.raises(InvalidFields) as raised:
        jobs(**fields)
    return raised.value.fields


def test_every_combination_is_one_job_and_the_cells_of_a_seed_come_before_those_of_the_next() -> None:
    planned = jobs(grid=GRID | {"seed": [7, 3]}, base={"epochs": 5, "labels": {"a": "b"}}, priority=4)
    assert [(job.request.seed, job.request.normalization.type, job.request.batch_size) for job in planned] == [
        (seed, norm, size) for seed in (7, 3) for norm in ("batch", "group") for size in (2, 32)
    ]
    assert {(job.request.epochs, job.request.priority) for job in planned} == {(5, 4)}
    assert all(job.request.labels == {"a": "b"} for job in planned)
    assert len({job.cell for job in planned}) == 4
    assert [job.cell for job in planned[:4]] == [job.cell for job in planned[4:]]


def test_a_job_of_a_grid_is_the_job_that_was_meant() -> None:
    grid: dict[str, Any] = {
        "normalization": [GROUP],
        "batch_size": [4],
        "optimizer": [{"type": "sgd"}, {"type": "adam"}],
        "optimizer.learning_rate": [0.1, 0.01],
    }
    planned = jobs(grid=grid, base={"recipe": "wu-he", "model": "vgg"})
    alone = JobRequest.model_validate(
        {"recipe": "wu-he", "model": "vgg", "normalization": GROUP, "batch_size": 4}
        | {"optimizer": {"type": "adam", "learning_rate": 0.01}}
    )
    assert planned[-1].request.training == alone.training
    assert len(planned) == 4


def test_a_field_within_a_part_keeps_the_part_of_the_base_or_of_the_default() -> None:
    grid = GRID | {"optimizer.learning_rate": [0.3]}
    assert jobs(grid=grid)[0].request.optimizer.type == "sgd"
    given = jobs(grid=grid, base={"optimizer": {"type": "adam", "eps": 1e-6}})[0].request.optimizer
    assert given.model_dump(include={"type", "eps", "learning_rate"}) == {
        "type": "adam",
        "eps": 1e-6,
        "learning_rate": 0.3,
    }
    assert jobs(grid=grid, base={"recipe": "labml"})[0].request.optimizer.type == "adam"


def test_a_job_is_named_after_what_sets_it_apart() -> None:
    grid = {"seed": [3], "normalization": [{"type": "group", "num_groups": 4}], "batch_size": [2]}
    assert jobs(grid=grid, name="small")[0].request.name == "small: group (4), batch size 2, seed 3"
    assert jobs(grid=grid, name="")[0].request.name == "group (4), batch size 2, seed 3"
    assert jobs(grid=grid, base={"name": "given"})[0].request.name == "given"
    assert len(jobs(grid=grid, name="n" * 200)[0].request.name) == 200


def test_without_seeds_there_is_one_and_it_is_part_of_the_grid_from_then_on() -> None:
    assert request().grid["seed"] == [0]
    assert request(base={"seed": 5}).grid["seed"] == [5]
    assert {job.request.seed for job in jobs(base={"seed": 5})} == {5}


@pytest.mark.parametrize(
    ("fields", "path", "says"),
    [
        ({"grid": GRID | {"batch_size": [2, 0]}}, ("grid", "batch_size", 1), "batch_size is 0"),
        (
            {"grid": GRID | {"normalization": [BATCH, {"type": "group", "num_groups": 32}]}},
            ("grid", "normalization", 1, "num_groups"),
            "num_groups is 32, which does not divide the 16 channels of resnet20's layer stem_norm",
        ),
        (
            {"grid": GRID | {"normalization": [{"type": "x"}]}},
            ("grid", "normalization", 0, "type"),
            "give one of batch",
        ),
        ({"grid": GRID | {"optimizer.lr": [1]}}, ("grid", "optimizer.lr", 0), "There is no lr"),
        ({"grid": GRID | {"schedule.gamma": [0.1, 7]}}, ("grid", "schedule.gamma", 1), "gamma is 7"),
        ({"grid": GRID | {"epocs": [1]}}, ("grid", "epocs"), "epocs is not a field of a training: give one of augm"),
        ({"grid": GRID | {"name": ["a"]}}, ("grid", "name"), "name is not a field of a training"),
        ({"grid": {"batch_size": [2]}}, ("base", "normalization"), "normalization is required"),
        ({"base": {"epocs": 3}}, ("base", "epocs"), "did you mean epochs"),
        ({"base": {"batch_size": 3}}, ("base", "batch_size"), "batch_size is also in the grid"),
        ({"base": {"priority": 3}}, ("base", "priority"), "priority is a field of the experiment"),
        ({"base": {"seed": 1}, "seeds": {}}, ("base", "seed"), "seed and seeds exclude each other"),
        ({"grid": GRID | {"seed": [1]}, "seeds": {}}, ("grid", "seed"), "seed and seeds exclude each other"),
        ({"grid": GRID | {"batch_size": [2, 4, 2]}}, ("grid", "batch_size", 2), "has this value already, at 0"),
        ({"grid": GRID | {"normalization": [GROUP, {"type": "group"}]}}, ("grid", "normalization"), "are the same"),
        ({"outcome": {"rows": "optimizer.lr"}}, ("outcome", "rows"), "rows is 'optimizer.lr': give one of"),
        ({"outcome": {"rows": "batch_size"}}, ("outcome", "columns"), "rows and columns are both batch_size"),
        ({"seeds": {}, "grid": GRID | {"model": ["vgg", "resnet20"]}}, ("grid", "model"), "has no axis for model"),
        (
            {
                "seeds": {},
                "grid": {"optimizer.learning_rate": [0.1, 0.2], "optimizer.momentum": [0.5], "batch_size": [2]},
                "base": {"normalization": BATCH},
            },
            ("grid", "optimizer.momentum"),
            "a table of optimizer.learning_rate × batch_size, which has no axis for optimizer.momentum",
        ),
        (
            {"seeds": {}, "outcome": {"rows": "normalization.type"}},
            ("grid", "normalization"),
            "a table of normalization.type × batch_size, which has no axis for normalization",
        ),
    ],
)
def test_what_cannot_work_is_said_at_its_value(fields: dict[str, Any], path: tuple[Any, ...], says: str) -> None:
    found = errors(**fields)
    assert [error.path for error in found] == [path]
    assert says in found[0].detail


def test_each_invalid_value_is_reported_once_for_all_jobs() -> None:
    found = errors(grid={"normalization": [BATCH, {"type": "y"}], "batch_size": [2, 4, 0], "seed": [0, 1, 2]})
    assert {error.path for error in found} == {("grid", "batch_size", 2), ("grid", "normalization", 1, "type")}
    assert len(found) == 2


def test_an_experiment_has_a_maximum_number_of_jobs() -> None:
    sizes = list(range(1, 251))
    assert len(jobs(grid={"normalization": [BATCH, GROUP], "batch_size": sizes, "seed": [0, 1]})) == MAX_JOBS
    found = errors(grid={"normalization": [BATCH, GROUP], "batch_size": sizes, "seed": [0, 1, 2]})
    assert found == [(("grid",), "2 normalization × 250 batch_size × 3 seed make 1500 jobs: give at most 1000")]
    found = errors(grid={"normalization": [BATCH, GROUP], "batch_size": sizes}, seeds={"min": 2, "max": 3})
    assert "3 seed make 1500 jobs" in found[0].detail


@pytest.mark.parametrize(
    ("seeds", "says"), [({"min": 3, "max": 3}, "not above min"), ({"min": 1}, "greater than"), ({"stop": "x"}, "resol")]
)
def test_sequential_seeds_leave_something_to_decide(seeds: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        request(seeds=seeds)


def test_sequential_seeds_begin_with_the_least_number() -> None:
    wanted = request(seeds={"min": 3, "max": 10})
    assert sorted({job.request.seed for job in expand(wanted)}) == [0, 1, 2]
    assert {job.request.seed for job in expand(wanted, seeds=[3, 4])} == {3, 4}
    assert [job.cell for job in expand(wanted)][:4] == [job.cell for job in expand(wanted, seeds=[3])]


class TestBudget:
    def test_scales_epochs_and_images_by_its_square_root(self) -> None:
        for budget, *wanted in ((0.25, 50, 25_000, 5000), (0.04, 20, 10_000, 2000), (0.01, 10, 5_000, 2000)):
            spec = jobs(base={"recipe": "wu-he"}, budget=budget)[0].request
            assert [spec.epochs, spec.dataset.num_train, spec.dataset.num_eval] == wanted

    def test_scales_evaluations_to_no_fewer_than_2000_images_and_never_up(self) -> None:
        for given, evaluated in (
            ({"test_limit": 6000}, 3000),
            ({"test_limit": 3000}, 2000),
            ({"test_limit": 500}, 500),
            ({"holdout": 10_000}, 5000 + 5000),
            ({"holdout": 6000, "test_limit": 0}, 3000),
            ({"name": "synthetic"}, 2000),
        ):
            dataset = jobs(base={"dataset": given}, budget=0.25)[0].request.dataset
            assert dataset.num_eval == evaluated
            assert (dataset.holdout > 0) == ("holdout" in given)
        assert dataset.test_limit is None

    def test_keeps_what_is_held_out_and_leaves_a_job_that_works(self) -> None:
        spec = jobs(base={"epochs": 1, "dataset": {"train_limit": 300, "holdout": 100}}, budget=0.01)[0].request
        assert (spec.epochs, spec.dataset.holdout, spec.dataset.num_train) == (1, 100, 100)
        assert spec.dataset.num_test == 2000
        assert jobs(base={"epochs": 3}, budget=0.5)[0].request.dataset.holdout == 0

    def test_of_one_changes_nothing(self) -> None:
        assert jobs()[0].request.dataset.train_limit is None

    @pytest.mark.parametrize("budget", [0, 1.1, -1])
    def test_is_a_fraction(self, budget: float) -> None:
        with pytest.raises(ValidationError):
            request(budget=budget)


class TestRowsAndColumns:
    @pytest.mark.parametrize(
        ("grid", "rows", "columns"),
        [
            (GRID, "normalization", "batch_size"),
            ({"normalization": [BATCH, GROUP], "model": ["vgg", "resnet20"]}, "normalization", "model"),
            ({"optimizer.learning_rate": [1, 2], "batch_size": [2, 4]}, "optimizer.learning_rate", "batch_size"),
            ({"normalization.num_groups": [1, 2], "batch_size": [2]}, "normalization", "batch_size"),
            ({"epochs": [1, 2]}, "epochs", "batch_size"),
            ({}, "normalization", "batch_size"),
        ],
    )
    def test_are_what_varies(self, grid: dict[str, Any], rows: str, columns: str) -> None:
        assert (request(grid=grid).rows, request(grid=grid).columns) == (rows, columns)

    def test_are_what_was_asked_for(self) -> None:
        wanted = request(outcome={"rows": "batch_size", "columns": "normalization"})
        assert (wanted.rows, wanted.columns) == ("batch_size", "normalization")


class TestExtended:
    def test_adds_values_and_keeps_the_jobs_there_are(self) -> None:
        before = request(grid=GRID | {"seed": [0, 1]})
        after = before.extended({"seed": [1, 2], "batch_size": [4]})
        known = {(job.cell, job.request.seed) for job in expand(before)}
        assert after.grid["seed"] == [0, 1, 2]
        assert known < {(job.cell, job.request.seed) for job in expand(after)}
        assert len(expand(after)) == 2 * 3 * 3
        assert after.extended({"seed": [0]}) == after

    def test_takes_no_other_axis(self) -> None:
        with pytest.raises(InvalidFields, match="the grid has no epochs: more values can be given for normalization"):
            request().extended({"epochs": [1]})

    def test_refuses_to_undo_the_plan_of_sequential_seeds(self) -> None:
        with pytest.raises(Conflict, match="were planned for this grid"):
            request(seeds={}).extended({"batch_size": [4]})


class TestStudies:
    @pytest.mark.parametrize("name", STUDIES)
    @pytest.mark.parametrize("model", [None, *ARCHITECTURES])
    def test_every_one_can_be_run_on_every_model(self, name: Any, model: str | None) -> None:
        given = request(builtin=name, grid={}, base={"model": model} if model else {})
        planned = expand(given)
        assert planned
        assert given.name == STUDIES[name].title
        assert {job.request.model for job in planned} == {model or STUDIES[name].base["model"]}

    def test_the_paper_varies_the_batch_size(self) -> None:
        planned = jobs(builtin="paper-batch-size", grid={"seed": [0]}, budget=0.1)
        assert [job.request.batch_size for job in planned] == [32, 16, 8, 4, 2] * 2
        assert planned[0].request.scaled_learning_rate == 0.1
        assert planned[4].request.scaled_learning_rate == 0.1 * 2 / 32
        assert planned[0].request.epochs == 32

    @pytest.mark.parametrize(("model", "most"), [("resnet20", 16), ("resnet18", 64), ("vgg", 64)])
    def test_the_groups_go_as_far_as_they_divide(self, model: str, most: int) -> None:
        norms = request(builtin="paper-groups", grid={}, base={"model": model}).grid["normalization"]
        numbers = [most >> shift for shift in range(most.bit_length())]
        assert [norm["num_groups"] for norm in norms if "num_groups" in norm] == numbers
        assert [norm["channels_per_group"] for norm in norms if "channels_per_group" in norm] == numbers

    def test_labml_is_its_recipe(self) -> None:
        job = jobs(builtin="labml", grid={})[1].request
        assert (job.model, job.optimizer.learning_rate, job.batch_size, job.epochs) == ("vgg", 2.5e-4, 64, 10)
        assert job.normalization.model_dump()["num_groups"] == 16

    def test_the_zoo_has_every_normalization_at_two_batch_sizes(self) -> None:
        planned = jobs(builtin="zoo", grid={"seed": [0]}, budget=0.05)
        kinds = NORMALIZATIONS.keys() - {"sync_batch"}
        trained = {(job.request.normalization.type, job.request.batch_size) for job in planned}
        assert trained == {(kind, size) for kind in kinds for size in (32, 2)}
        assert {job.request.schedule.warmup_epochs for job in planned} == {1.0}
        found = lint([Candidate(str(index), job.request) for index, job in enumerate(planned)])
        assert not {"renormalization_not_started", "running_averages_not_settled"} & {one.code for one in found}

    def test_what_is_given_goes_before_what_they_give(self) -> None:
        given = request(builtin="paper-norms", name="mine", grid={"batch_size": [4]}, outcome={"statistic": "best"})
        assert (given.name, given.grid["batch_size"], given.outcome.statistic) == ("mine", [4], "best")
        assert request(builtin="paper-norms", grid={}).outcome.statistic == "median_last_5"
        assert "seed" not in request(builtin="paper-norms", grid={}, seeds={}).grid


@pytest.mark.parametrize(
    ("fields", "datasets"),
    [
        ({}, ["cifar10"]),
        ({"base": {"recipe": "wu-he", "dataset": {"train_limit": 100}}}, ["cifar10"]),
        ({"base": {"dataset": {"name": "synthetic"}}}, ["synthetic"]),
        ({"builtin": "labml", "base": {"dataset": {"name": "synthetic"}}}, ["synthetic"]),
        ({"grid": {"dataset": [{"name": "synthetic"}, {}]}}, ["cifar10", "synthetic"]),
        ({"base": {"dataset": {"name": "synthetic"}}, "grid": {"dataset.name": ["cifar10"]}}, ["cifar10"]),
    ],
)
def test_a_request_knows_its_datasets(fields: dict[str, Any], datasets: list[str]) -> None:
    assert ExperimentRequest.model_validate(fields).resolved().datasets == datasets
