"""The JSON of a comparison of experiments, as clients see it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, Field

from service.api.schemas.axis import AxisView
from service.api.schemas.experiment import WarningView, warning_views
from service.api.schemas.result import CellView, Interval, axis_view, cell_views
from service.experiments import axes
from service.experiments.compared import Differences, Member
from service.experiments.confounds import Confound
from service.experiments.request import Statistic
from service.experiments.results import FailedAs, ResultTable
from service.experiments.statistics import Analysis
from service.experiments.table_warnings import table_warnings
from worker.metrics import METRICS, OutcomeMetric


class ComparedExperiment(BaseModel):
    """One of the experiments, with its cells as its own results have them."""

    experiment: str
    title: str = Field(description="display title, with the id if another one has the same title")
    cells: list[CellView]
    warnings: list[WarningView] = Field(description="about the table of this experiment")


class DifferenceView(BaseModel):
    """A cell of experiment a minus the same cell of experiment b, over the seeds that both have."""

    row: str
    column: str
    experiment_a: str
    experiment_b: str
    n: int
    difference: float | None = Field(description="mean of a - b")
    sd: float | None
    interval: Interval | None
    p: float | None = Field(description="two-sided p of the paired t test")
    p_adjusted: float | None = Field(description="p, adjusted for all differences of the comparison (Holm)")
    resolved: bool = Field(description="p_adjusted is below 1 - confidence")
    seeds_needed: int | None = Field(description="further seeds that would resolve it at the observed mean and spread")
    failed: int = Field(description="seeds that failed in one of the two cells: unless they count, `n` lacks them")


class ExperimentComparison(BaseModel):
    """Several experiments in one table."""

    metric: OutcomeMetric
    unit: str
    statistic: Statistic
    statistic_title: str = Field(description="human-readable name of the statistic, in lower case")
    step: int | None
    failed: FailedAs = Field(description="how failed jobs count: omitted, or as the error of a guess")
    evaluated_on: str = Field(description="images that the metric is computed on: test, holdout or train")
    datasets: list[str]
    rows: AxisView = Field(description="the values of all experiments")
    columns: AxisView = Field(description="the values of all experiments")
    experiments: list[ComparedExperiment]
    differences: list[DifferenceView] = Field(description="of the cells that two experiments share")
    confidence: float
    family_size: int = Field(description="number of differences that p_adjusted accounts for")
    warnings: list[WarningView] = Field(description="what else may explain a difference between the experiments")


def comparison_view(
    whole: ResultTable,
    members: Sequence[Member],
    analyses: Sequence[Analysis],
    found: Differences,
    warnings: Sequence[Confound],
) -> ExperimentComparison:
    """Return the comparison. `whole` is the table of all jobs, `analyses` are those of the members."""
    question = whole.question
    assert question.metric is not None
    split = METRICS[question.metric].split
    assert split is not None
    confidence = analyses[0].confidence
    return ExperimentComparison(
        metric=question.metric,
        unit=METRICS[question.metric].unit,
        statistic=question.statistic,
        statistic_title=whole.statistic_title,
        step=question.step,
        failed=question.failed,
        evaluated_on=split,
        datasets=sorted({axes.label("dataset", run.spec["dataset"]) for run in whole.runs}),
        rows=axis_view(question.rows, whole.rows),
        columns=axis_view(question.columns, whole.columns),
        experiments=[
            ComparedExperiment(
                experiment=member.id,
                title=member.title,
                cells=cell_views(member.table, analysis),
                warnings=warning_views(table_warnings(member.table, analysis.cells, confidence=confidence)),
            )
            for member, analysis in zip(members, analyses, strict=True)
        ],
        differences=[_difference(one.row, one.column, asdict(one.comparison)) for one in found.differences],
        confidence=confidence,
        family_size=found.family_size,
        warnings=warning_views(warnings),
    )


def _difference(row: str, column: str, comparison: Mapping[str, Any]) -> DifferenceView:
    given = {name: comparison[name] for name in DifferenceView.model_fields if name in comparison}
    a, b = comparison["row_a"], comparison["row_b"]
    return DifferenceView(**given | {"row": row, "column": column, "experiment_a": a, "experiment_b": b})


def table_rows(comparison: ExperimentComparison, table: str) -> list[dict[str, Any]]:
    """Return a table as flat rows: `cells`, each with its experiment, or `differences`."""
    about = {"metric": comparison.metric, "statistic": comparison.statistic_title}
    if table == "differences":
        found = [one.model_dump(mode="json") for one in comparison.differences]
        return [_with_bounds(entry) | about for entry in found]
    kept = {"row", "column", "n", "mean", "sd", "interval", "min", "max", "without_value", "failed"}
    return [
        {"experiment": one.experiment, "title": one.title}
        | _with_bounds(cell.model_dump(mode="json", include=kept))
        | about
        for one in comparison.experiments
        for cell in one.cells
    ]


def _with_bounds(entry: dict[str, Any]) -> dict[str, Any]:
    low, high = entry.pop("interval") or (None, None)
    return entry | {"low": low, "high": high}
