"""The JSON of results, as clients see it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.api.schemas.axis import AxisValue, AxisView
from service.api.schemas.experiment import SequentialView, WarningView, warning_views
from service.api.schemas.tuning import TuningView
from service.experiments import axes
from service.experiments.confounds import Confound
from service.experiments.findings import headline
from service.experiments.request import Statistic
from service.experiments.results import FailedAs, ResultTable
from service.experiments.runs import Run
from service.experiments.statistics import Analysis, Cell
from service.experiments.statistics.intervals import wilson_interval
from service.experiments.statistics.observations import Table
from service.jobs import Status
from worker.metrics import METRICS, OutcomeMetric

Interval = tuple[float, float]


class ObservationView(BaseModel):
    """The value of one job; null if it ended without one."""

    seed: int
    value: float | None
    job: str
    precision: str | None = Field(description="format of the activations of the job; null if it never ran")


class CellView(BaseModel):
    """The jobs of one row and column."""

    row: str
    column: str
    n: int = Field(description="number of values, one per seed")
    mean: float | None
    sd: float | None
    interval: Interval | None = Field(description="two-sided t interval of the mean; if null, `note` has the reason")
    min: float | None
    max: float | None
    without_value: int = Field(description="seeds that ended without a value: failed, diverged or cancelled")
    failed: int = Field(description="seeds whose jobs failed; with failed=chance they have a value all the same")
    failed_share: Interval | None = Field(
        description="interval of the probability that a job of this cell fails (Wilson 1927); null before one has ended"
    )
    repeated: int = Field(description="jobs that do not count because an earlier job of the cell has the same seed")
    note: str | None = Field(description="reason why there is no interval")
    values: list[ObservationView] = Field(description="the values that count, by seed")
    jobs: list[str] = Field(description="all jobs of the cell, including those that have not ended")
    counts: dict[Status, int] = Field(description="jobs by status")
    images_per_s: float | None = Field(description="median over the jobs")
    device_s: float = Field(description="worker seconds of all attempts of all jobs")


class ComparisonView(BaseModel):
    """Row a minus row b within a column, over the seeds that both have."""

    column: str
    row_a: str
    row_b: str
    n: int
    difference: float | None = Field(description="mean of a - b")
    sd: float | None
    interval: Interval | None
    p: float | None = Field(description="two-sided p of the paired t test")
    p_adjusted: float | None = Field(description="p, adjusted for all comparisons (Holm) and interim analyses")
    resolved: bool = Field(description="p_adjusted is below 1 - confidence")
    seeds_needed: int | None = Field(description="further seeds that would resolve it at the observed mean and spread")
    n_tested: int
    failed: int = Field(description="seeds that failed in one of the two cells: unless they count, `n` lacks them")


class ContrastView(BaseModel):
    """How much the difference between two rows changes from the first column to the last."""

    row_a: str
    row_b: str
    column_first: str
    column_last: str
    n: int
    difference: float | None
    sd: float | None
    interval: Interval | None
    p: float | None
    p_adjusted: float | None


class InteractionView(BaseModel):
    """Whether the effect of the rows depends on the columns.

    `resolved` is decided by the contrasts: the F test, with seeds as blocks, assumes equal variances in all cells.
    """

    f: float | None = Field(description="null if the residual variance is 0")
    df: int
    df_residual: int
    p: float = Field(description="of the F test")
    resolved: bool = Field(description="the p_adjusted of a contrast is below 1 - confidence")
    contrasts: list[ContrastView]


class Results(BaseModel):
    """A table of results."""

    experiment: str | None = Field(description="null for results over any jobs")
    name: str | None
    headline: str = Field(
        description="the result in one sentence: the largest significant difference, or that there is none"
    )
    budget: float | None = Field(description="budget of the experiment: the fraction of its full cost")
    metric: OutcomeMetric
    unit: str
    statistic: Statistic
    statistic_title: str = Field(description="human-readable name of the statistic, in lower case")
    step: int | None
    stage: Literal["tuned", "untuned"] | None = Field(
        description="the jobs of the table: with the chosen values, or as they were given; null without `tune`"
    )
    failed: FailedAs = Field(description="how failed jobs count: omitted, or as the error of a guess")
    evaluated_on: str = Field(description="images that the metric is computed on: test, holdout or train")
    datasets: list[str] = Field(description="training datasets, including limits on the number of images")
    precisions: list[str] = Field(description="formats of the activations of the jobs that ran: float32, bfloat16")
    rows: AxisView
    columns: AxisView
    cells: list[CellView]
    beside: list[CellView] = Field(
        description="the cells of the other table, untuned beside tuned; empty without `tune.compare`"
    )
    comparisons: list[ComparisonView]
    interaction: InteractionView | None
    confidence: float
    family_size: int = Field(description="number of comparisons that p_adjusted accounts for")
    interim_analyses: list[int] = Field(
        description="number of seeds per cell at each interim analysis; empty without sequential seeds"
    )
    sequential: SequentialView | None
    tuning: TuningView | None = Field(description="what was searched and chosen; null without `tune`")
    warnings: list[WarningView]


@dataclass(frozen=True)
class Tuned:
    """The search of a tuned experiment, the stage of its table, and its other table with the analysis of it."""

    view: TuningView
    stage: Literal["tuned", "untuned"]
    beside: tuple[ResultTable, Analysis]


def results_view(
    table: ResultTable,
    analysis: Analysis,
    warnings: Sequence[Confound],
    *,
    experiment: Mapping[str, Any] | None = None,
    sequential: SequentialView | None = None,
    tuned: Tuned | None = None,
) -> Results:
    """Return the table with its analysis. `experiment` has the id, the name and the budget."""
    question = table.question
    metric = question.metric
    assert metric is not None
    split = METRICS[metric].split
    assert split is not None
    about = experiment or {"id": None, "name": None, "budget": None}
    datasets = sorted({axes.label("dataset", run.spec["dataset"]) for run in table.runs})
    return Results(
        experiment=about["id"],
        name=about["name"],
        headline=headline(table, analysis, datasets),
        budget=about["budget"],
        metric=metric,
        unit=METRICS[metric].unit,
        statistic=question.statistic,
        statistic_title=table.statistic_title,
        step=question.step,
        stage=None if tuned is None else tuned.stage,
        failed=question.failed,
        evaluated_on=split,
        datasets=datasets,
        precisions=sorted({run.precision for run in table.runs if run.precision is not None}),
        rows=axis_view(question.rows, table.rows),
        columns=axis_view(question.columns, table.columns),
        cells=cell_views(table, analysis),
        beside=[] if tuned is None else cell_views(*tuned.beside),
        comparisons=[ComparisonView(**asdict(comparison)) for comparison in analysis.comparisons],
        interaction=None if analysis.interaction is None else InteractionView(**asdict(analysis.interaction)),
        confidence=analysis.confidence,
        family_size=analysis.family_size,
        interim_analyses=list(analysis.interim_analyses),
        sequential=sequential,
        tuning=None if tuned is None else tuned.view,
        warnings=warning_views(warnings),
    )


def cell_views(table: ResultTable, analysis: Analysis) -> list[CellView]:
    """Return the cells of a table in their order."""
    counted = Table(table.observations, list(table.cells))
    runs = {run.id: run for run in table.runs}
    return [
        _cell_view(cell, table.cells[cell.row, cell.column], _values(counted, cell, runs), analysis.confidence)
        for cell in analysis.cells
    ]


def axis_view(name: str, values: Mapping[str, Any]) -> AxisView:
    """Return an axis of a table: the field and its values."""
    return AxisView(field=name, values=[AxisValue(label=label, value=value) for label, value in values.items()])


def _values(counted: Table, cell: Cell, runs: Mapping[str, Run]) -> list[ObservationView]:
    return [
        ObservationView(seed=run.seed, value=observation.value, job=run.id, precision=run.precision)
        for observation in counted.counted((cell.row, cell.column))
        for run in (runs[observation.job],)
    ]


def _cell_view(cell: Cell, runs: Sequence[Run], values: list[ObservationView], confidence: float) -> CellView:
    ended = cell.n + cell.without_value
    speeds = [run.summary["images_per_s"]["last"] for run in runs if run.summary.get("images_per_s")]
    return CellView(
        row=cell.row,
        column=cell.column,
        n=cell.n,
        mean=cell.mean,
        sd=cell.sd,
        interval=cell.interval,
        min=cell.min,
        max=cell.max,
        without_value=cell.without_value,
        failed=cell.failed,
        failed_share=wilson_interval(cell.failed, ended, confidence=confidence) if ended else None,
        repeated=cell.repeated,
        note=_note(cell, runs),
        values=values,
        jobs=[run.id for run in runs],
        counts=dict(Counter(run.status for run in runs)),
        images_per_s=median(speeds) if speeds else None,
        device_s=sum(run.device_s for run in runs),
    )


def _note(cell: Cell, runs: Sequence[Run]) -> str | None:
    if cell.interval is not None:
        return None
    match cell.n:
        case 0 if cell.failed:
            return f"No job of this cell has a value: {cell.failed} of {len(runs)} failed."
        case 0:
            return "No job of this cell has a value yet."
        case 1:
            return "One seed: the spread between seeds is unknown, so there is no interval."
        case _:
            return f"All {cell.n} values are equal: no spread was observed, so there is no interval."
