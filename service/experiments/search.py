"""The search of a tuned experiment: its jobs, the values that win, and the jobs that train with them.

Everything here is a function of the request and of the jobs, which name their cell. So a search continues after any
interruption, and is the same on another installation.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from statistics import fmean
from typing import Any, Literal

from pydantic import ValidationError

from service.errors import FieldError, InvalidFields
from service.experiments import axes, results
from service.experiments.confounds import Confound
from service.experiments.request import (
    MAX_JOBS,
    ExperimentRequest,
    Json,
    PlannedJob,
    cell_of,
    check_axes,
    expand,
    scaled,
)
from service.experiments.results import CHANCE_ERROR
from service.experiments.runs import Run
from service.experiments.tune import LABEL
from service.jobs import TERMINAL, JobRequest, Status
from service.validation import explain
from worker.metrics import HOLDOUT_ERROR

Stage = Literal["search", "untuned", "tuned"]


@dataclass(frozen=True)
class Candidate:
    """A combination of values, and the jobs that try it."""

    values: Mapping[str, Any]
    jobs: Sequence[PlannedJob]


@dataclass(frozen=True)
class Part:
    """A row, or a cell: the jobs that share one choice of values."""

    row: str
    column: str | None
    """None for a row."""
    declared: Sequence[PlannedJob]
    """Its jobs as they are given, untuned."""
    candidates: Sequence[Candidate]
    """In the order of the request. One without values and jobs if the jobs have no field that is tuned."""

    @property
    def is_searched(self) -> bool:
        """Whether there is anything to choose."""
        return bool(self.candidates[0].jobs)


@dataclass(frozen=True)
class Score:
    """How a candidate did on the holdout."""

    candidate: Candidate
    error: float | None
    """The mean over columns of the mean over seeds; None if it cannot win."""
    n: int
    """The number of jobs that succeeded."""
    failed: int
    """The number of jobs that failed. Each counts as the error of a guess."""


@dataclass(frozen=True)
class Choice:
    """The values of a part, once its search has ended."""

    part: Part
    scores: Sequence[Score]
    has_ended: bool
    values: Mapping[str, Any] | None
    """Those that won; None until the search has ended, and if none could win."""
    edges: Sequence[str]
    """Fields whose value is the smallest or the largest of those searched."""

    @property
    def reason(self) -> str | None:
        """Why there are no values although the search has ended."""
        if not self.has_ended or self.values is not None:
            return None
        failed, jobs = sum(score.failed for score in self.scores), sum(len(s.candidate.jobs) for s in self.scores)
        return (
            f"No combination of values has a job with an error on the holdout in every column: {failed} of {jobs} jobs "
            "of the search failed. Nothing was trained with tuned values."
        )


class Search:
    """The plan of a tuned experiment: all of its jobs, by stage.

    Raises:
        InvalidFields: A job is not valid, or there are too many.
    """

    def __init__(self, request: ExperimentRequest) -> None:
        assert request.tune is not None
        self.request, self.tune = request, request.tune
        groups: dict[str, list[PlannedJob]] = {}
        check_axes(request)
        for job in expand(_labelled(request, "untuned").model_copy(update={"tune": None})):
            groups.setdefault(axes.canonical(self._place(job)), []).append(job)
        specs = [[job.request.training.model_dump(mode="json") for job in jobs] for jobs in groups.values()]
        fields = [[name for name in self.tune.over if all(axes.has(spec, name) for spec in part)] for part in specs]
        self._check_fields(fields)
        self._check_size(list(groups.values()), fields)
        self.parts = [
            self._part(jobs, own, part[0]) for jobs, own, part in zip(groups.values(), fields, specs, strict=True)
        ]

    def first_jobs(self) -> list[PlannedJob]:
        """Return the jobs that do not depend on the search: those of the search, then the untuned ones."""
        jobs = [job for part in self.parts for candidate in part.candidates for job in candidate.jobs]
        return jobs + (self.untuned_jobs() if self.tune.compare else [])

    def untuned_jobs(self) -> list[PlannedJob]:
        """Return the jobs as they are given."""
        return [job for part in self.parts for job in part.declared]

    def later_jobs(self) -> list[PlannedJob]:
        """Return the jobs that wait for the search, as they are given: their number and their cost are known."""
        return [job for part in self.parts if self.has_own_jobs(part) for job in part.declared]

    @property
    def removed_confounds(self) -> frozenset[str]:
        """The codes of the confounds that the search removes from the tuned table."""
        if "optimizer.learning_rate" not in self.tune.over:
            return frozenset()
        by_cell = {"learning_rate_not_scaled"} if self.tune.per == "cell" else set()
        return frozenset({"shared_hyperparameters"} | by_cell)

    def warnings(self, runs: Sequence[Run]) -> tuple[Confound, ...]:
        """Return the confounds of the tuned jobs, of the untuned ones before there are any."""
        shown = self.at_stage(runs, "tuned") or self.at_stage(runs, "untuned")
        return tuple(one for one in results.warnings(shown) if one.code not in self.removed_confounds)

    def tuned_jobs(self, choice: Choice) -> list[PlannedJob]:
        """Return the jobs of a part with the values that won; none without any, and if they are the untuned ones."""
        if choice.values is None or not self.has_own_jobs(choice.part):
            return []
        fixed = {name: [value] for name, value in choice.values.items()}
        jobs = self._expanded(choice.part.declared, self.request.grid["seed"], fixed, "tuned")
        return [
            replace(job, cell=cell_of(own, "tuned"), coordinates=own)
            for job in jobs
            for own in [{name: value for name, value in job.coordinates.items() if name not in fixed}]
        ]

    def has_own_jobs(self, part: Part) -> bool:
        """Whether a part has tuned jobs: without anything to tune there, its untuned jobs count as them."""
        return part.is_searched or not self.tune.compare

    def choices(self, runs: Sequence[Run]) -> list[Choice]:
        """Return the choice of each part, by the jobs of the experiment so far."""
        by_cell: dict[str, list[Run]] = {}
        for run in runs:
            if run.cell is not None:
                by_cell.setdefault(run.cell, []).append(run)
        return [self._choice(part, by_cell) for part in self.parts]

    def ended(self, unfinished: frozenset[str]) -> list[Part]:
        """Return the parts whose search has ended, given the cells that have jobs which have not."""
        return [part for part in self.parts if not self._search_cells(part) & unfinished]

    def tuned_cells(self, part: Part) -> frozenset[str]:
        """Return the cells of the tuned jobs of a part."""
        return frozenset(cell_of(job.coordinates, "tuned") for job in part.declared)

    @cached_property
    def _cells(self) -> Mapping[str, tuple[Stage, Json]]:
        """The stage of each cell, and the spec as it is given."""
        cells: dict[str, tuple[Stage, Json]] = {}
        for part in self.parts:
            for job in part.declared:
                spec = job.request.training.model_dump(mode="json")
                cells[job.cell] = "untuned", spec
                cells[cell_of(job.coordinates, "tuned")] = "tuned", spec
            cells |= {cell: ("search", {}) for cell in self._search_cells(part)}
        return cells

    def stage_of(self, run: Run) -> Stage | None:
        """Return the stage of a job; None for one that is not of the experiment's plan."""
        return None if run.cell is None or run.cell not in self._cells else self._cells[run.cell][0]

    def at_stage(self, runs: Sequence[Run], stage: Literal["untuned", "tuned"]) -> list[Run]:
        """Return the jobs of a stage, with the spec as it is given, by which they have their row and column."""
        wanted = {cell for part in self.parts for cell in self._cells_at(part, stage)}
        return [
            replace(run, spec=self._cells[run.cell][1] | {"seed": run.seed})
            for run in runs
            if run.cell is not None and run.cell in wanted
        ]

    def _cells_at(self, part: Part, stage: Literal["untuned", "tuned"]) -> frozenset[str]:
        if stage == "tuned" and not self.has_own_jobs(part):
            stage = "untuned"
        return self.tuned_cells(part) if stage == "tuned" else frozenset(job.cell for job in part.declared)

    def _place(self, job: PlannedJob) -> Json:
        """The coordinates that jobs of one part share."""
        column = axes.parts_of(self.request.columns)
        return {
            name: value
            for name, value in job.coordinates.items()
            if name != "seed" and (self.tune.per == "cell" or axes.parts_of(name)[: len(column)] != column)
        }

    def _part(self, declared: Sequence[PlannedJob], fields: Sequence[str], spec: Json) -> Part:
        row, column = (axes.label(name, axes.read(spec, name)) for name in (self.request.rows, self.request.columns))
        own_column = column if self.tune.per == "cell" else None
        if not fields:
            return Part(row, own_column, declared, [Candidate({}, ())])
        over = {name: self.tune.over[name] for name in fields}
        jobs = [self._searching(job) for job in self._expanded(declared, self.tune.search_seeds, over, "search")]
        candidates = []
        for values in itertools.product(*over.values()):
            wanted = dict(zip(over, values, strict=True))
            own = [job for job in jobs if all(job.coordinates[name] == value for name, value in wanted.items())]
            candidates.append(Candidate(wanted, own))
        return Part(row, own_column, declared, candidates)

    def _expanded(
        self, declared: Sequence[PlannedJob], seeds: Sequence[int], fields: Mapping[str, Sequence[Any]], stage: Stage
    ) -> list[PlannedJob]:
        """Return the jobs of a part with every combination of the values of more fields."""
        request = _labelled(self.request, stage)
        grid: dict[str, list[Any]] = {
            name: [value for value in values if any(job.coordinates[name] == value for job in declared)]
            for name, values in request.grid.items()
        }
        outcome = request.outcome.model_copy(update={"rows": request.rows, "columns": request.columns})
        change: dict[str, Any] = {"tune": None, "outcome": outcome, "grid": {**grid, **fields, "seed": list(seeds)}}
        if stage == "search":
            change["budget"] = 1.0
        try:
            return expand(request.model_copy(update=change))
        except InvalidFields as error:
            moved = [_moved(one, fields) for one in error.fields]
            raise InvalidFields(moved, is_complete=error.is_complete) from error

    def _searching(self, job: PlannedJob) -> PlannedJob:
        """Return a job of the search, which trains without the holdout for a part of the epochs, and is not tested."""
        spec, tune = job.request, self.tune
        if tune.holdout >= spec.dataset.num_train:
            detail = f"holdout is {tune.holdout}, which leaves none of {spec.dataset.num_train} training images"
            raise InvalidFields([FieldError(("tune", "holdout"), f"{detail}: give fewer")])
        body = spec.model_dump(mode="json")
        body |= {"dataset": tune.searched_dataset(spec.dataset), "epochs": tune.searched_epochs(spec.epochs)}
        try:
            request = JobRequest.model_validate(scaled(body, self.request.budget))
        except ValidationError as error:
            _, detail = explain(error.errors(include_url=False)[0], ("tune", "holdout"), ExperimentRequest)
            raise InvalidFields([FieldError(("tune", "holdout"), f"in the search, {detail}")]) from error
        return replace(job, cell=cell_of(job.coordinates, "search"), request=request)

    def _search_cells(self, part: Part) -> frozenset[str]:
        return frozenset(job.cell for candidate in part.candidates for job in candidate.jobs)

    def _check_fields(self, fields: Sequence[Sequence[str]]) -> None:
        if missing := set(self.tune.over) - {name for own in fields for name in own}:
            detail = "no job of the grid has this field: leave it out"
            raise InvalidFields([FieldError(("tune", "over", name), detail) for name in sorted(missing)])

    def _check_size(self, groups: Sequence[Sequence[PlannedJob]], fields: Sequence[Sequence[str]]) -> None:
        given = sum(len(jobs) for jobs in groups)
        searched = sum(
            math.prod(len(self.tune.over[name]) for name in own) * len({job.cell for job in jobs}) * self.tune.seeds
            for jobs, own in zip(groups, fields, strict=True)
            if own
        )
        count = searched + given * (2 if self.tune.compare else 1)
        if count > MAX_JOBS:
            parts = f"{searched} jobs of the search and {count - searched} others make {count}"
            raise InvalidFields([FieldError(("tune",), f"{parts} jobs: give at most {MAX_JOBS}")])

    def _choice(self, part: Part, by_cell: Mapping[str, Sequence[Run]]) -> Choice:
        columns = len({job.cell for job in part.declared})
        scores = [_score(candidate, columns, by_cell) for candidate in part.candidates]
        searched = [run for cell in self._search_cells(part) for run in by_cell.get(cell, ())]
        ended = all(run.status in TERMINAL for run in searched)
        trained = [run for cell in self.tuned_cells(part) for run in by_cell.get(cell, ())]
        values: Mapping[str, Any] | None = None
        if trained:
            # What its jobs were trained with stays, also if a job of the search is repeated later.
            values = _tried(part, trained[0].spec)
        elif ended:
            able = [score for score in scores if score.error is not None]
            best = min(able, key=lambda score: score.error or 0.0, default=None)
            values = None if best is None else best.candidate.values
            values = {} if not part.is_searched else values
        edges = [name for name, value in (values or {}).items() if _is_edge(value, self.tune.over[name])]
        return Choice(part, scores, ended, values, edges)


def first_jobs(request: ExperimentRequest) -> list[PlannedJob]:
    """Return the jobs that a resolved request queues at once. Raises `InvalidFields`."""
    return expand(request) if request.tune is None else search_of(request).first_jobs()


def search_of(request: ExperimentRequest) -> Search:
    """Return the search of a tuned request, which is computed once."""
    return _search_of(request.model_dump_json(exclude_unset=True))


@lru_cache(maxsize=8)
def _search_of(request: str) -> Search:
    return Search(ExperimentRequest.model_validate_json(request))


def _labelled(request: ExperimentRequest, stage: Stage) -> ExperimentRequest:
    """Return the request with jobs that have the stage as a label, and in their name."""
    labels = request.base.get("labels", {})
    if not isinstance(labels, Mapping):
        return request
    name = request.name if stage == "untuned" else ", ".join(filter(None, [request.name, stage]))
    return request.model_copy(update={"name": name, "base": {**request.base, "labels": {**labels, LABEL: stage}}})


def _moved(error: FieldError, fields: Mapping[str, Any]) -> FieldError:
    """Return an error at a value of the grid where the request has it: in `tune.over` for a tuned field."""
    if len(error.path) > 1 and error.path[0] == "grid" and error.path[1] in fields:
        return FieldError(("tune", "over", *error.path[1:]), error.detail)
    return error


def _tried(part: Part, spec: Json) -> Mapping[str, Any]:
    """Return the values that a tuned job was trained with."""
    fields = part.candidates[0].values
    found = {name: axes.read(spec, name) for name in fields}
    for candidate in part.candidates:
        for job in candidate.jobs[:1]:
            tried = job.request.training.model_dump(mode="json")
            if found == {name: axes.read(tried, name) for name in fields}:
                return candidate.values
    return found


def _score(candidate: Candidate, columns: int, by_cell: Mapping[str, Sequence[Run]]) -> Score:
    """Return the score of a candidate. It cannot win without a job that succeeded, or without a value in a column."""
    values: dict[str, list[float]] = {}
    succeeded = failed = 0
    for cell in dict.fromkeys(job.cell for job in candidate.jobs):
        for run in by_cell.get(cell, ()):
            summary = run.summary.get(HOLDOUT_ERROR.name)
            if run.status is Status.SUCCEEDED and summary is not None:
                succeeded += 1
                values.setdefault(cell, []).append(summary["last"])
            elif run.status is Status.FAILED:
                failed += 1
                values.setdefault(cell, []).append(CHANCE_ERROR)
    able = succeeded > 0 and len(values) == columns
    return Score(candidate, fmean(map(fmean, values.values())) if able else None, succeeded, failed)


def _is_edge(value: Any, searched: Sequence[Any]) -> bool:
    numbers = [one for one in searched if isinstance(one, int | float) and not isinstance(one, bool)]
    return len(numbers) == len(searched) > 1 and value in (min(numbers), max(numbers))
