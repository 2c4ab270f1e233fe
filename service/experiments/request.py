"""Requests of experiments: a grid over the fields of a job, and its expansion into validated jobs."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from service.errors import Conflict, FieldError, InvalidFields
from service.experiments import axes
from service.experiments.builtin import STUDIES, StudyName
from service.experiments.titles import describe
from service.experiments.tune import FIRST_SEED, LABEL, NOT_TUNED, Tune
from service.jobs import JobRequest
from service.validation import explain
from worker.metrics import OutcomeMetric
from worker.spec import Dataset, TrainingSpec
from worker.validation import StrictModel

MAX_JOBS = 1000
"""The maximal number of jobs of one experiment, sequential seeds included."""
MAX_NAME = 200
MAX_ERRORS = 100
"""The number of invalid fields, of all jobs together, at which the search for more ends."""
LEAST_EVALUATED = 2000
"""Evaluation images that a budget leaves: with fewer, the sampling error of the test error exceeds one point."""

Json = dict[str, Any]
Statistic = Literal["final", "best", "median_last_5", "at_step"]
FieldName = Annotated[str, Field(min_length=1, max_length=100)]


class Seeds(StrictModel):
    """Sequential seeds: every cell gets `min` seeds. Only cells with a comparison that is not resolved get more."""

    min: int = Field(default=3, ge=2, le=100, description="number of seeds of every cell at the first analysis")
    max: int = Field(default=10, ge=2, le=100, description="maximum number of seeds of a cell")
    stop: Literal["resolved"] = Field(
        default="resolved", description="stop adding seeds to a cell once all its comparisons are resolved"
    )

    @model_validator(mode="after")
    def _some_to_add(self) -> Self:
        if self.max <= self.min:
            raise PydanticCustomError(
                "seeds",
                "max is {max}, not above min, which is {min}: give more, or give the seeds as grid.seed",
                {"field": "max", "max": self.max, "min": self.min},
            )
        return self


class Outcome(StrictModel):
    """The outcome, declared in advance: results show it by default, and sequential seeds decide on it."""

    metric: OutcomeMetric | None = Field(
        default=None, description="default: test_error, or holdout_error for jobs without test images"
    )
    statistic: Literal["final", "best", "median_last_5"] = Field(
        default="final",
        description="the last value, the best one, or the median of the last 5 epochs (Wu & He 2018). The best one is "
        "the lowest, which is optimistic; with a holdout, the one at the epoch that was best there",
    )
    rows: FieldName | None = Field(default=None, description="field that is compared; default: normalization")
    columns: FieldName | None = Field(
        default=None, description="field within whose values rows are compared; default: batch_size"
    )


class ExperimentRequest(StrictModel):
    """The body of `POST /v1/experiments`."""

    name: str = Field(default="", max_length=MAX_NAME, description="display name; need not be unique")
    builtin: StudyName | None = Field(
        default=None, description="a built-in experiment, which sets base, grid and outcome unless they are given"
    )
    base: Json = Field(default_factory=dict, description="a job, without the fields of the grid")
    grid: dict[FieldName, Annotated[list[Any], Field(min_length=1, max_length=MAX_JOBS)]] = Field(
        default_factory=dict,
        max_length=10,
        description="values of fields of a job, every combination of which is a job; a dot selects a nested field, "
        "as in optimizer.learning_rate",
    )
    seeds: Seeds | None = Field(default=None, description="sequential seeds, instead of grid.seed")
    tune: Tune | None = Field(
        default=None, description="hyper-parameters to search on a holdout for each row or cell before its jobs train"
    )
    outcome: Outcome = Field(default_factory=Outcome)
    budget: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="about this fraction of the cost: epochs and images are both scaled by its square root, evaluation "
        "images to no fewer than 2000",
    )
    priority: int = Field(
        default=0, ge=-1000, le=1000, description="priority of all its jobs; a higher one starts first"
    )

    def resolved(self) -> "ExperimentRequest":
        """Return the request with all fields of the built-in experiment, and its seeds in the grid."""
        request = self
        if self.builtin is not None:
            base = STUDIES[self.builtin].base | self.base
            study = STUDIES[self.builtin].of(base)
            outcome = Outcome.model_validate(study.outcome | self.outcome.model_dump(exclude_unset=True))
            given = study.grid if self.seeds is None else study.grid | {"seed": None}
            grid = {name: values for name, values in (given | self.grid).items() if values is not None}
            name = self.name or study.title
            request = self.model_copy(update={"name": name, "base": base, "grid": grid, "outcome": outcome})
        if request.seeds is None and "seed" not in request.grid:
            base = dict(request.base)
            return request.model_copy(update={"grid": {**request.grid, "seed": [base.pop("seed", 0)]}, "base": base})
        return request

    def extended(self, grid: Mapping[str, Sequence[Any]]) -> "ExperimentRequest":
        """Return the request with further values in its grid. Values that the grid has already change nothing.

        Raises:
            Conflict: The seeds are sequential.
            InvalidFields: The grid does not have the axis.
        """
        if grid and self.seeds is not None:
            raise Conflict(
                "The interim analyses of sequential seeds were planned for this grid, and more values would invalidate "
                "them: submit these values as another experiment."
            )
        if self.tune is not None and grid.keys() - {"seed"}:
            raise Conflict(
                "The values of a tuned experiment were searched for this grid, and only seeds can be added: submit "
                "other values as another experiment."
            )
        unknown = [FieldError(("grid", name), self._no_axis(name)) for name in grid if name not in self.grid]
        if unknown:
            raise InvalidFields(unknown)
        longer = {name: list(values) for name, values in self.grid.items()}
        for name, values in grid.items():
            there = set(map(axes.canonical, longer[name]))
            longer[name] += [value for value in values if axes.canonical(value) not in there]
        return self.model_copy(update={"grid": longer})

    def _no_axis(self, name: str) -> str:
        return f"the grid has no {name}: more values can be given for {', '.join(self.grid)}"

    @property
    def rows(self) -> str:
        """The field whose values are compared: normalization, unless only another one varies."""
        return self.outcome.rows or self._varying("normalization", besides=self.outcome.columns)

    @property
    def columns(self) -> str:
        """The field within each value of which they are compared: batch_size, unless only another one varies."""
        return self.outcome.columns or self._varying("batch_size", besides=self.rows)

    @property
    def datasets(self) -> list[str]:
        """The names of the datasets of its jobs."""
        parts = self.grid.get("dataset", [self.base.get("dataset")])
        names = self.grid.get("dataset.name") or [axes.read({"dataset": part}, "dataset.name") for part in parts]
        return sorted({str(name or Dataset().name) for name in names})

    def _varying(self, usual: str, besides: str | None) -> str:
        others = [name for name in self.grid if name not in ("seed", besides, "normalization", "batch_size")]
        varies = any(axes.parts_of(name)[0] == usual for name in self.grid)
        return usual if varies or usual == besides or not others else others[0]


@dataclass(frozen=True)
class PlannedJob:
    """One job of an experiment: its cell, and its request."""

    cell: str
    """Digest of the values of the grid without the seed: equal for the jobs of one cell."""
    coordinates: Mapping[str, Any]
    request: JobRequest


def expand(request: ExperimentRequest, seeds: Sequence[int] | None = None) -> list[PlannedJob]:
    """Return the jobs of a resolved request, all cells of one seed before those of the next.

    `seeds` stands for grid.seed where the request has `seeds`; default: the first `seeds.min`. Raises `InvalidFields`,
    which names each value of the grid that makes a job invalid.
    """
    check_axes(request)
    grid = dict(request.grid)
    if request.seeds is not None:
        grid["seed"] = list(range(request.seeds.min)) if seeds is None else list(seeds)
    _check_size(request, grid)
    names = ["seed", *(name for name in grid if name != "seed")]
    planned: list[PlannedJob] = []
    errors: dict[FieldError, None] = {}
    for indices in itertools.product(*(range(len(grid[name])) for name in names)):
        at = dict(zip(names, indices, strict=True))
        coordinates = {name: grid[name][index] for name, index in at.items()}
        try:
            job = JobRequest.model_validate(scaled(_body(request, coordinates), request.budget))
        except ValidationError as error:
            errors |= dict.fromkeys(itertools.islice(_attributed(error, request, at), MAX_ERRORS))
            if len(errors) >= MAX_ERRORS:
                break
        else:
            if "name" not in request.base:
                job = job.model_copy(update={"name": _name(request.name, coordinates, job)})
            planned.append(PlannedJob(cell_of(coordinates), coordinates, job))
    if errors:
        raise InvalidFields(list(errors), is_complete=len(errors) < MAX_ERRORS)
    _check_that_cells_differ(planned)
    return planned


def _check_size(request: ExperimentRequest, grid: Mapping[str, Sequence[Any]]) -> None:
    sizes = {name: len(values) for name, values in grid.items()}
    if request.seeds is not None:
        sizes["seed"] = request.seeds.max
    count = math.prod(sizes.values())
    if count > MAX_JOBS:
        product = " × ".join(f"{size} {name}" for name, size in sizes.items())
        raise InvalidFields([FieldError(("grid",), f"{product} make {count} jobs: give at most {MAX_JOBS}")])


def _name(experiment: str, coordinates: Mapping[str, Any], job: JobRequest) -> str:
    """`two norms: group (8), batch size 2, seed 0`."""
    fields = sorted(coordinates, key=lambda field: field == "seed")
    described = describe(job.training.model_dump(mode="json"), fields)
    return ": ".join(filter(None, [experiment, described]))[:MAX_NAME]


def cell_of(coordinates: Mapping[str, Any], stage: str = "") -> str:
    """Return the digest of a cell, at a stage of a tuned experiment."""
    text = stage + axes.canonical({name: value for name, value in coordinates.items() if name != "seed"})
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _body(request: ExperimentRequest, coordinates: Mapping[str, Any]) -> Json:
    body = dict(request.base)
    # Whole parts first, so that a field within one is set in it and not overwritten.
    for name in sorted(coordinates, key=lambda name: name.count(".")):
        part, *within = axes.parts_of(name)
        if within and part not in body and "recipe" not in body:
            default = TrainingSpec.model_fields[part].get_default(call_default_factory=True)
            body |= {part: {"type": default.type}} if hasattr(default, "type") else {}
        axes.place(body, name, coordinates[name])
    return body | {"priority": request.priority}


def scaled(body: Json, budget: float) -> Json:
    """Return the job at the fraction `budget` of its cost: epochs and images are both scaled by its square root.

    Evaluation images are scaled too, because their share of the time would grow otherwise.
    """
    if budget == 1:
        return body
    spec = JobRequest.model_validate(body)
    factor = math.sqrt(budget)
    images = max(math.ceil(spec.dataset.num_train * factor / 100) * 100, spec.global_batch_size)
    holdout, tested = (
        min(max(math.ceil(count * factor / 100) * 100, LEAST_EVALUATED), count)
        for count in (spec.dataset.holdout, spec.dataset.num_test)
    )
    limits = {"train_limit": min(images, spec.dataset.num_train) + holdout, "holdout": holdout}
    if tested < spec.dataset.num_test:
        limits["test_limit"] = tested
    dataset = spec.dataset.model_dump(mode="json") | limits
    return body | {"epochs": max(1, round(spec.epochs * factor)), "dataset": dataset}


def check_axes(request: ExperimentRequest) -> None:
    """Raise `InvalidFields` if the grid, or what is declared about it, is not valid, whatever its values."""
    errors: list[FieldError] = []
    for name, values in request.grid.items():
        if axes.parts_of(name)[0] not in TrainingSpec.model_fields:
            accepted = ", ".join(axes.fields())
            errors.append(FieldError(("grid", name), f"{name} is not a field of a training: give one of {accepted}"))
        if name in request.base:
            errors.append(FieldError(("base", name), f"{name} is also in the grid: omit it in base"))
        seen: dict[str, int] = {}
        for index, value in enumerate(values):
            if (first := seen.setdefault(axes.canonical(value), index)) != index:
                errors.append(FieldError(("grid", name, index), f"{name} has this value already, at {first}"))
    if "priority" in request.base:
        errors.append(FieldError(("base", "priority"), "priority is a field of the experiment: omit it in base"))
    beyond = _beyond_the_table(request)
    if request.seeds is not None:
        exclude = "seed and seeds exclude each other: give one"
        holders = (("grid", request.grid), ("base", request.base))
        errors += [FieldError((holder, "seed"), exclude) for holder, fields in holders if "seed" in fields]
        if beyond:
            sentence = (
                f"sequential seeds decide by a table of {request.rows} × {request.columns}, which has no axis for "
                f"{beyond[0]}: name it as outcome.rows or outcome.columns, or give the seeds as grid.seed"
            )
            errors.append(FieldError(("grid", beyond[0]), sentence))
    if request.tune is not None:
        errors += _tuning_errors(request, request.tune, beyond)
    for which in ("rows", "columns"):
        field = getattr(request.outcome, which)
        if field is not None and not axes.is_field(field):
            accepted = ", ".join(axes.fields())
            errors.append(
                FieldError(("outcome", which), f"{which} is {field!r}: give one of {accepted}, or of its parts")
            )
    if not errors and request.rows == request.columns:
        errors.append(FieldError(("outcome", "columns"), f"rows and columns are both {request.rows}: give two fields"))
    if errors:
        raise InvalidFields(errors)


def _beyond_the_table(request: ExperimentRequest) -> list[str]:
    """Return the axes of the grid that are neither the seed nor part of the rows or columns."""
    shown = ("seed", request.rows, request.columns)
    return [name for name in request.grid if not any(_within(axes.parts_of(name), axes.parts_of(s)) for s in shown)]


def _tuning_errors(request: ExperimentRequest, tune: Tune, beyond: Sequence[str]) -> Iterator[FieldError]:
    if request.seeds is not None:
        yield FieldError(("seeds",), "sequential seeds and tune exclude each other: give the seeds as grid.seed")
    if beyond:
        sentence = (
            f"tune chooses values for a table of {request.rows} × {request.columns}, which has no axis for "
            f"{beyond[0]}: name it as outcome.rows or outcome.columns, or leave it out"
        )
        yield FieldError(("grid", beyond[0]), sentence)
    for name in tune.over:
        parts = axes.parts_of(name)
        if parts[0] in NOT_TUNED or not axes.is_field(name):
            accepted = ", ".join(field for field in axes.fields() if field not in NOT_TUNED)
            yield FieldError(("tune", "over", name), f"{name} cannot be tuned: give one of {accepted}, or its parts")
        elif axis := next((axis for axis in request.grid if _within(axes.parts_of(axis), parts)), None):
            yield FieldError(("tune", "over", name), f"the grid has {axis} already: leave {name} out of one of them")
    for seed in request.grid.get("seed", ()):
        if seed in tune.search_seeds:
            yield FieldError(("grid", "seed"), f"seed {seed} is one of the search: give seeds below {FIRST_SEED}")
    part = request.base.get("dataset")
    if isinstance(part, Mapping) and (part.get("holdout") or part.get("test_limit") == 0):
        sentence = "tune holds images out by itself, and tests on test images: omit dataset.holdout and test_limit 0"
        yield FieldError(("base", "dataset"), sentence)
    labels = request.base.get("labels")
    if isinstance(labels, Mapping) and LABEL in labels:
        yield FieldError(("base", "labels", LABEL), f"{LABEL} is the label of the stage of a job: give it another name")


def _attributed(error: ValidationError, request: ExperimentRequest, at: Mapping[str, int]) -> Iterator[FieldError]:
    """Return the errors of one job, at the values of the grid that cause them, else in the base."""
    for entry in error.errors(include_url=False):
        path, detail = explain(entry, entry["loc"], JobRequest)
        owners = [name for name in at if name in request.grid and _within(path, axes.parts_of(name))]
        if owners:
            name = max(owners, key=lambda name: name.count("."))
            yield FieldError(("grid", name, at[name], *path[len(axes.parts_of(name)) :]), detail)
        else:
            yield FieldError(("base", *path), detail)


def _within(path: Sequence[str | int], parts: Sequence[str]) -> bool:
    return tuple(path[: len(parts)]) == tuple(parts)


def _check_that_cells_differ(planned: Sequence[PlannedJob]) -> None:
    """Raise `InvalidFields` if two cells are equal with their defaults, as `group` and `group` with 8 groups are."""
    first: dict[tuple[str, int], PlannedJob] = {}
    for job in planned:
        trained = axes.canonical(job.request.training.model_dump(mode="json", exclude={"recipe"}))
        other = first.setdefault((trained, job.request.seed), job)
        if other.cell != job.cell:
            name = next(name for name, value in job.coordinates.items() if other.coordinates[name] != value)
            detail = (
                f"{axes.canonical(job.coordinates[name])} and {axes.canonical(other.coordinates[name])} are the same "
                f"{name} once defaults are filled in: leave one out"
            )
            raise InvalidFields([FieldError(("grid", name), detail)])
