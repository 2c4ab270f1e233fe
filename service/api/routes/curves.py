"""Curves of metrics of many jobs in one answer, downsampled so that they can be drawn together."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.context import Context
from service.api.curve_query import Curves, CurvesQuery, curves_of
from service.api.http.problems import describe

router = APIRouter(tags=["metrics"])


@router.get("/v1/curves", operation_id="list_curves", responses=describe(401, 422))
async def find(context: Context, query: Annotated[CurvesQuery, Query()]) -> Curves:
    """Metrics of up to 500 jobs, to be drawn together. A job without values of a metric has an empty curve of it."""
    found, _ = await curves_of(
        context.database, query.job, query.metric, max_points=query.max_points, smoothing=query.smoothing
    )
    return found
