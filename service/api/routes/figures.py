"""Figures for papers: of results, and of learning curves."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from service.api.comparison_query import ComparedQuery, compare_experiments
from service.api.context import Context, ExperimentId
from service.api.curve_query import MOST_JOBS, curves_of
from service.api.figure_query import (
    ANSWERS,
    CellCurvesQuery,
    FigureFormat,
    JobCurvesQuery,
    ResultsFigureQuery,
    StyleQuery,
    answer,
    datasets_of,
    drawn,
    names_of,
)
from service.api.filters import Text
from service.api.job_figure_query import ParallelQuery, ScatterQuery, measured, quantity
from service.api.result_query import experiment_results
from service.errors import Unprocessable
from service.figures import (
    Curve,
    cell_curves,
    comparison_chart,
    grouped,
    job_curves,
    parallel_chart,
    results_chart,
    scatter_chart,
)
from service.store import experiments

router = APIRouter(tags=["results"])


class ComparisonFigureQuery(ComparedQuery, StyleQuery):
    """A figure of several experiments."""

    line: list[Annotated[Text, Field(pattern="~")]] = Field(
        default_factory=list, description="row~experiment of the lines to draw, by label and id; default: all"
    )


@router.get(
    "/v1/experiments/{experiment_id}/figure.{format}",
    operation_id="get_experiment_figure",
    response_class=Response,
    responses=ANSWERS,
)
async def of_results(
    context: Context, experiment_id: ExperimentId, format: FigureFormat, query: Annotated[ResultsFigureQuery, Query()]
) -> Response:
    """The results by column, with intervals, one line for each row: Figure 1 of the paper."""
    async with context.database.read() as session:
        results = await experiment_results(session, await experiments.get(session, experiment_id), query)
    chart = results_chart(results.model_dump(mode="json"), rows=query.row or None, log_y=query.log_y)
    return await answer(chart, format, query, f"experiment {experiment_id}")


@router.get(
    "/v1/experiments/{experiment_id}/curves.{format}",
    operation_id="get_experiment_curves",
    response_class=Response,
    responses=ANSWERS,
)
async def of_cells(
    context: Context, experiment_id: ExperimentId, format: FigureFormat, query: Annotated[CellCurvesQuery, Query()]
) -> Response:
    """The learning curves of an experiment by cell: the mean over its seeds with its interval, or every seed."""
    async with context.database.read() as session:
        results = await experiment_results(session, await experiments.get(session, experiment_id))
    keys = {f"{cell.row}~{cell.column}": cell for cell in results.cells}
    if unknown := [key for key in query.cell if key not in keys]:
        raise Unprocessable(f"cell is {unknown[0]!r}: give one of {', '.join(keys)}.")
    cells = [keys[key] for key in query.cell] if query.cell else results.cells
    ids = [job for cell in cells for job in cell.jobs]
    if len(ids) > MOST_JOBS:
        raise Unprocessable(f"The cells have {len(ids)} jobs: choose some by cell, with at most {MOST_JOBS} jobs.")
    metric = query.metric or results.metric
    found, jobs = await curves_of(context.database, ids, [metric], smoothing=query.smoothing)
    by_job: Mapping[str, Curve] = {curve.job: drawn(curve, query.x) for curve in found.data}
    chart = cell_curves(
        {(cell.row, cell.column): [by_job[job] for job in cell.jobs if job in by_job] for cell in cells},
        metric,
        rows=[value.label for value in results.rows.values],
        columns=[value.label for value in results.columns.values],
        spread=query.spread,
        confidence=query.confidence,
        across=query.x,
        datasets=datasets_of(jobs),
        log_x=query.log_x,
        log_y=query.log_y,
    )
    return await answer(chart, format, query, f"experiment {experiment_id}")


@router.get("/v1/curves.{format}", operation_id="get_curves_figure", response_class=Response, responses=ANSWERS)
async def of_jobs(context: Context, format: FigureFormat, query: Annotated[JobCurvesQuery, Query()]) -> Response:
    """The learning curves of up to 500 jobs: a line for each job and metric."""
    found, jobs = await curves_of(context.database, query.job, query.row_keys, smoothing=query.smoothing)
    names = {job: f"{name}, {query.layer}" if query.layer else name for job, name in names_of(jobs).items()}
    chart = job_curves(
        [drawn(curve, query.x) for curve in found.data],
        names,
        across=query.x,
        datasets=datasets_of(jobs),
        log_x=query.log_x,
        log_y=query.log_y,
    )
    return await answer(chart, format, query, f"job {', '.join(query.job[:3])}")


@router.get("/v1/comparison.{format}", operation_id="get_comparison_figure", response_class=Response, responses=ANSWERS)
async def of_experiments(
    context: Context, format: FigureFormat, query: Annotated[ComparisonFigureQuery, Query()]
) -> Response:
    """The results of several experiments by column: a colour for each row, dashes for each experiment."""
    found = await compare_experiments(context.database, query)
    lines = {(row, experiment) for row, _, experiment in (line.rpartition("~") for line in query.line)}
    chart = comparison_chart(found.model_dump(mode="json"), lines=lines or None, log_y=query.log_y)
    return await answer(chart, format, query, f"experiments {', '.join(query.experiment)}")


@router.get("/v1/scatter.{format}", operation_id="get_scatter_figure", response_class=Response, responses=ANSWERS)
async def as_points(context: Context, format: FigureFormat, query: Annotated[ScatterQuery, Query()]) -> Response:
    """Jobs as points: any two quantities against each other."""
    x, y, by = (quantity(name, getattr(query, name)) for name in ("x", "y", "by"))
    jobs, stored = await measured(context.database, query)
    chart = scatter_chart(
        grouped(jobs, by),
        x,
        y,
        shown=query.shows,
        datasets=datasets_of(stored),
        log_x=query.log_x,
        log_y=query.log_y,
    )
    return await answer(chart, format, query, "these jobs")


@router.get("/v1/parallel.{format}", operation_id="get_parallel_figure", response_class=Response, responses=ANSWERS)
async def as_lines(context: Context, format: FigureFormat, query: Annotated[ParallelQuery, Query()]) -> Response:
    """Jobs as lines through several quantities side by side, at most 300 (parallel coordinates)."""
    by, sides = quantity("by", query.by), [quantity("axis", name) for name in dict.fromkeys(query.axis)]
    jobs, stored = await measured(context.database, query)
    chart = parallel_chart(grouped(jobs, by), sides, shown=query.shows, datasets=datasets_of(stored))
    return await answer(chart, format, query, "these jobs")
