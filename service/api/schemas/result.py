"""The JSON of results, as clients see it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from pydantic import BaseModel, Field

from service.api.schemas.axis import AxisValue, AxisView
from service.api.schemas.experiment import SequentialView, WarningView, warning_views
from service.experiments import axes
from service.experiments.confounds import Confound
from service.experiments.request import Statistic
from service.experiments.results import ResultTable
from service.experiments.runs import Run
from service.experiments.statistics import Analysis, Cell
from service.experiments.statistics.observations import Table
from service.jobs import Status
from worker.metrics import METRICS, OutcomeMetric

Interval = tuple[float, float]


class ObservationView(BaseModel):
    """The value of one job; null where it ended without one."""

    seed: int
    value: float | None
    job: str


class CellView(BaseModel):
    """The jobs of one row and column."""

    row: str
    column: str
    n: int = Field(description="values; one seed counts once")
    mean: float | None
    sd: float | None
    interval: Interval | None = Field(description="of the mean, two-sided, by the t distribution; null says `note` why")
    min: float | None
    max: float | None
    without_value: int = Field(description="seeds that ended without a value: failed, diverged or cancelled")
    repeated: int = Field(description="jobs left out because an earlier one of the cell has their seed")
    note: str | None = Field(description="a sentence where there is no interval")
    values: list[ObservationView] = Field(description="what counts, by seed")
    jobs: list[str] = Field(description="all jobs of the cell, also those that have not ended")
    counts: dict[Status, int] = Field(description="jobs by status")
    images_per_s: float | None = Field(description="median over the jobs")
    device_s: float = Field(description="seconds that workers were held, by all jobs and attempts")


class ComparisonView(BaseModel):
    """Row a minus row b within a column, over the seeds that both have."""

    column: str
    row_a: str
    row_b: str
    n: int
    difference: float | None = Field(description="mean of a - b; below 0, a has less")
    sd: float | None
    interval: Interval | None
    p: float | None = Field(description="paired t test, by itself")
    p_adjusted: float | None = Field(description="for all comparisons of the table (Holm), and all interim analyses")
    resolved: bool = Field(description="p_adjusted is below 1 - confidence")
    seeds_needed: int | None = Field(description="how many more would resolve it at the observed mean and spread")
    n_tested: int


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
    """Whether the effect of the rows depends on the columns: an F test with seeds as blocks."""

    f: float | None = Field(description="null where no noise is left to compare with")
    df: int
    df_residual: int
    p: float
    resolved: bool
    contrasts: list[ContrastView]


class Results(BaseModel):
    """A table of results."""

    experiment: str | None = Field(description="null for results over any jobs")
    name: str | None
    budget: float | None = Field(description="of the experiment: below 1, it is a fraction of the cost of the whole")
    metric: OutcomeMetric
    unit: str
    statistic: Statistic
    step: int | None
    evaluated_on: str = Field(description="test, holdout or train: the images behind the metric")
    datasets: list[str] = Field(description="what was trained on; a limit on the images is in the label")
    rows: AxisView
    columns: AxisView
    cells: list[CellView]
    comparisons: list[ComparisonView]
    interaction: InteractionView | None
    confidence: float
    family_size: int = Field(description="comparisons that p_adjusted answers for")
    interim_analyses: list[int] = Field(description="numbers of seeds of each, with sequential seeds; else empty")
    sequential: SequentialView | None
    warnings: list[WarningView]


def results_view(
    table: ResultTable,
    analysis: Analysis,
    warnings: Sequence[Confound],
    *,
    experiment: Mapping[str, Any] | None = None,
    sequential: SequentialView | None = None,
) -> Results:
    """The table with what the analysis says of it; `experiment` has its id, name and budget."""
    question = table.question
    metric = question.metric
    assert metric is not None
    split = METRICS[metric].split
    assert split is not None
    counted = Table(table.observations, list(table.cells))
    seeds = {run.id: run.seed for run in table.runs}
    about = experiment or {"id": None, "name": None, "budget": None}
    return Results(
        experiment=about["id"],
        name=about["name"],
        budget=about["budget"],
        metric=metric,
        unit=METRICS[metric].unit,
        statistic=question.statistic,
        step=question.step,
        evaluated_on=split,
        datasets=sorted({axes.label("dataset", run.spec["dataset"]) for run in table.runs}),
        rows=_axis(question.rows, table.rows),
        columns=_axis(question.columns, table.columns),
        cells=[
            _cell_view(cell, table.cells[cell.row, cell.column], _values(counted, cell, seeds))
            for cell in analysis.cells
        ],
        comparisons=[ComparisonView(**asdict(comparison)) for comparison in analysis.comparisons],
        interaction=None if analysis.interaction is None else InteractionView(**asdict(analysis.interaction)),
        confidence=analysis.confidence,
        family_size=analysis.family_size,
        interim_analyses=list(analysis.interim_analyses),
        sequential=sequential,
        warnings=warning_views(warnings),
    )


def _axis(name: str, values: Mapping[str, Any]) -> AxisView:
    return AxisView(field=name, values=[AxisValue(label=label, value=value) for label, value in values.items()])


def _values(counted: Table, cell: Cell, seeds: Mapping[str, int]) -> list[ObservationView]:
    return [
        ObservationView(seed=seeds[observation.job], value=observation.value, job=observation.job)
        for observation in counted.counted((cell.row, cell.column))
    ]


def _cell_view(cell: Cell, runs: Sequence[Run], values: list[ObservationView]) -> CellView:
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
        repeated=cell.repeated,
        note=_note(cell),
        values=values,
        jobs=[run.id for run in runs],
        counts=dict(Counter(run.status for run in runs)),
        images_per_s=median(speeds) if speeds else None,
        device_s=sum(run.device_s for run in runs),
    )


def _note(cell: Cell) -> str | None:
    if cell.interval is not None:
        return None
    match cell.n:
        case 0:
            return "No job of this cell has a value yet."
        case 1:
            return "One seed: how far another one would be from it is not known, so there is no interval."
        case _:
            return f"All {cell.n} values are equal: no spread was seen, so there is no interval."
