"""The JSON of tuned experiments: what was searched, what was chosen, and what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.api.schemas.axis import AxisView, grid_axes
from service.experiments import axes
from service.experiments.costs import Estimate
from service.experiments.runs import Run
from service.experiments.search import Choice, Score, Search
from service.jobs import TERMINAL


class CandidateView(BaseModel):
    """A combination of values of the search."""

    label: str = Field(description="the values in words, as in learning_rate 0.1")
    values: dict[str, Any]
    error: float | None = Field(
        description="error on the holdout: the mean over columns of the mean over seeds, in which a failed job counts "
        "as the error of a guess; null if it cannot win, because all of its jobs failed or a column has no value yet"
    )
    n: int = Field(description="number of jobs that succeeded")
    failed: int
    jobs: int


class ChoiceView(BaseModel):
    """The values of a row or of a cell."""

    row: str
    column: str | None = Field(description="null if a choice is for all columns of a row")
    has_ended: bool = Field(description="whether all jobs of its search have ended")
    label: str | None = Field(description="the chosen values in words; null without any")
    values: dict[str, Any] | None = Field(
        description="the chosen values; null until the search has ended, and if no combination could win; empty if the "
        "jobs have none of the fields"
    )
    edges: list[str] = Field(description="fields whose chosen value is the smallest or the largest of those searched")
    reason: str | None = Field(description="why nothing was chosen although the search has ended")
    candidates: list[CandidateView]


class TuningView(BaseModel):
    """The search of a tuned experiment."""

    over: list[AxisView] = Field(description="the fields that are searched, and their values")
    per: Literal["row", "cell"]
    holdout: int = Field(description="held-out training images of a job of the search, before the budget")
    seeds: int = Field(description="seeds of each combination of values")
    epochs: float = Field(description="fraction of the epochs of a job that the search trains")
    compare: bool = Field(description="whether the jobs are also trained untuned")
    jobs: int = Field(description="number of jobs of the search")
    ended: int = Field(description="number of them that have ended")
    device_s: float = Field(description="worker seconds of the search so far")
    missing: int = Field(description="tuned jobs that wait for the search, and are not queued yet")
    choices: list[ChoiceView]


class PlannedTuningView(BaseModel):
    """The jobs of a tuned experiment by stage, in a dry run."""

    search_jobs: int
    untuned_jobs: int
    tuned_jobs: int = Field(description="jobs that are queued once the search of their row or cell has ended")
    search_device_s: float = Field(description="worker seconds of the search")


def tuning_view(search: Search, runs: Sequence[Run]) -> TuningView:
    """Return the state of a search, by all jobs of the experiment."""
    tune = search.tune
    searched = [run for run in runs if search.stage_of(run) == "search"]
    choices = search.choices(runs)
    return TuningView(
        over=grid_axes(tune.over),
        per=tune.per,
        holdout=tune.holdout,
        seeds=tune.seeds,
        epochs=tune.epochs,
        compare=tune.compare,
        jobs=len(searched),
        ended=sum(run.status in TERMINAL for run in searched),
        device_s=sum(run.device_s for run in searched),
        missing=sum(len(choice.part.declared) for choice in choices if not choice.has_ended),
        choices=[_choice_view(choice) for choice in choices],
    )


def planned_tuning_view(search: Search, estimate: Estimate) -> PlannedTuningView:
    """Return the number of jobs by stage. `estimate` begins with the jobs that are queued at once."""
    searching = [job for part in search.parts for candidate in part.candidates for job in candidate.jobs]
    costs = [seconds * job.request.num_workers for job, seconds in zip(searching, estimate.job_s, strict=False)]
    return PlannedTuningView(
        search_jobs=len(searching),
        untuned_jobs=len(search.untuned_jobs()) if search.tune.compare else 0,
        tuned_jobs=len(search.later_jobs()),
        search_device_s=sum(costs),
    )


def _choice_view(choice: Choice) -> ChoiceView:
    return ChoiceView(
        row=choice.part.row,
        column=choice.part.column,
        has_ended=choice.has_ended,
        label=None if choice.values is None else _label(choice.values),
        values=None if choice.values is None else dict(choice.values),
        edges=list(choice.edges),
        reason=choice.reason,
        candidates=[_candidate_view(score) for score in choice.scores if score.candidate.jobs],
    )


def _candidate_view(score: Score) -> CandidateView:
    return CandidateView(
        label=_label(score.candidate.values),
        values=dict(score.candidate.values),
        error=score.error,
        n=score.n,
        failed=score.failed,
        jobs=len(score.candidate.jobs),
    )


def _label(values: Mapping[str, Any]) -> str:
    """`learning_rate 0.1, momentum 0.01`."""
    named = [f"{axes.parts_of(field)[-1]} {axes.label(field, value)}" for field, value in values.items()]
    return ", ".join(named) or "nothing to tune"
