"""Results: a table of means with confidence intervals, and the comparisons of its rows."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from service.api.comparison_query import ComparisonQuery, compare_experiments
from service.api.context import Context, ExperimentId
from service.api.http.negotiation import preferred
from service.api.http.problems import describe
from service.api.result_query import (
    ExperimentResultsQuery,
    JobResultsQuery,
    ResultsQuery,
    experiment_results,
    job_results,
)
from service.api.schemas import comparison, result_table
from service.api.schemas.comparison import ExperimentComparison
from service.api.schemas.result import Results
from service.api.schemas.result_table import CSV, LATEX, MEDIA_TYPES, PARQUET
from service.report import as_latex, comparison_as_latex
from service.store import experiments

router = APIRouter(tags=["results"])

TABLES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The results; with Accept: text/csv, or application/vnd.apache.parquet, one flat table of them; "
        "with application/x-latex, the tables of a paper",
        "content": {
            CSV: {"schema": {"type": "string"}},
            PARQUET: {"schema": {"type": "string", "format": "binary"}},
            LATEX: {"schema": {"type": "string"}},
        },
    }
}

COMPARISON: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The comparison; with Accept: text/csv, its cells or its differences as one flat table; with "
        "application/x-latex, the tables of a paper",
        "content": {CSV: {"schema": {"type": "string"}}, LATEX: {"schema": {"type": "string"}}},
    }
}


@router.get(
    "/v1/experiments/{experiment_id}/results",
    operation_id="get_experiment_results",
    response_model=Results,
    responses=describe(401, 404, 406, 422, answers=TABLES),
)
async def of_experiment(
    request: Request, context: Context, experiment_id: ExperimentId, query: Annotated[ExperimentResultsQuery, Query()]
) -> Results | Response:
    """The results of an experiment, also while it runs; by default of the outcome that it declared."""
    async with context.database.read() as session:
        view = await experiment_results(session, await experiments.get(session, experiment_id), query)
    return _negotiated(request, query, view)


@router.get(
    "/v1/results",
    operation_id="get_results",
    response_model=Results,
    responses=describe(401, 406, 422, answers=TABLES),
)
async def of_jobs(request: Request, context: Context, query: Annotated[JobResultsQuery, Query()]) -> Results | Response:
    """The results of any jobs, selected by the filters of the list of jobs."""
    return _negotiated(request, query, await job_results(context.database, query))


@router.get(
    "/v1/comparison",
    operation_id="compare_experiments",
    response_model=ExperimentComparison,
    responses=describe(401, 404, 406, 422, answers=COMPARISON),
)
async def of_experiments(
    request: Request, context: Context, query: Annotated[ComparisonQuery, Query()]
) -> ExperimentComparison | Response:
    """The cells of several experiments side by side, and the differences of those that they share."""
    view = await compare_experiments(context.database, query)
    accepted = preferred(request.headers.get("accept"), ("application/json", CSV, LATEX))
    if accepted == LATEX:
        return Response(comparison_as_latex(view.model_dump(mode="json")), media_type=LATEX)
    if accepted == CSV:
        return Response(result_table.as_csv(comparison.table_rows(view, query.table)), media_type=CSV)
    return Response(view.model_dump_json(), media_type="application/json")


def _negotiated(request: Request, query: ResultsQuery, view: Results) -> Results | Response:
    accepted = preferred(request.headers.get("accept"), (*MEDIA_TYPES, LATEX))
    if accepted == LATEX:
        return Response(as_latex(view.model_dump(mode="json")), media_type=LATEX)
    if accepted not in (CSV, PARQUET):
        # Serialized here, because FastAPI would validate the model again, which takes as long as its computation.
        return Response(view.model_dump_json(), media_type="application/json")
    rows: Sequence[dict[str, Any]] = result_table.TABLES[query.table](view)
    if accepted == CSV:
        return Response(result_table.as_csv(rows), media_type=CSV)
    return Response(result_table.as_parquet(rows), media_type=PARQUET)
