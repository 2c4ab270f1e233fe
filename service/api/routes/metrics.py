"""The metrics of a job as rows or as a CSV table, downsampled on request."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.context import Context, JobId
from service.api.http.negotiation import preferred
from service.api.http.problems import describe
from service.api.series import downsample, equidistant
from service.store import jobs, metrics
from service.store.tables import Metric
from worker.metrics import MetricKind

CSV = "text/csv"
router = APIRouter(tags=["metrics"])


class MetricRow(BaseModel):
    """The metrics at one step. Errors are fractions of 1; a value that is not finite is null."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None] = Field(init=False)

    kind: MetricKind
    epoch: int
    step: int
    time: datetime
    diverged: bool = Field(default=False, description="true: a value is not finite")
    superseded: bool = Field(
        default=False, description="reported by an attempt that was lost, and reported again by a later one"
    )
    attempt: str | None = Field(default=None, description="only with superseded=true")


class MetricRows(BaseModel):
    """Rows in the order of their steps."""

    data: list[MetricRow]


class MetricsQuery(BaseModel):
    """The rows to select."""

    model_config = ConfigDict(extra="forbid")

    kind: MetricKind | None = Field(default=None, description="default: train and eval; telemetry only if it is named")
    after_step: int = Field(default=-1, ge=-1, lt=2**31, description="only rows of later steps")
    max_points: int | None = Field(
        default=None,
        ge=2,
        le=100_000,
        description="maximum number of rows of each kind: the first, the last, and those with the minimum or the "
        "maximum of a metric in segments of equal length; of telemetry, rows at equal distances",
    )
    superseded: bool = Field(default=False, description="include superseded rows")


@router.get(
    "/v1/jobs/{job_id}/metrics",
    operation_id="list_metrics",
    response_model=MetricRows,
    response_model_exclude_unset=True,
    responses=describe(
        401,
        404,
        422,
        answers={
            200: {
                "description": "The rows; with Accept: text/csv a table with a column for each metric",
                "content": {CSV: {"schema": {"type": "string"}}},
            }
        },
    ),
)
async def find(
    request: Request, context: Context, job_id: JobId, query: Annotated[MetricsQuery, Query()]
) -> MetricRows | Response:
    """The metrics of a job. Every step that was reported has exactly one row that is not superseded."""
    async with context.database.read() as session:
        await jobs.get(session, job_id)
        kinds = metrics.SUMMARIZED if query.kind is None else (query.kind,)
        found = await metrics.rows(
            session, job_id, kinds=kinds, after_step=query.after_step, superseded=query.superseded
        )
    if query.max_points is not None:
        found = downsampled(found, query.max_points)
    rows = [_row(metric, whole=query.superseded) for metric in found]
    if preferred(request.headers.get("accept"), ["application/json", CSV]) == CSV:
        return Response(_table(rows), media_type=CSV)
    return MetricRows(data=[MetricRow(**row) for row in rows])


def downsampled(rows: Sequence[Metric], max_points: int) -> list[Metric]:
    """Return at most `max_points` rows of each kind, in their order.

    Curves of training and evaluation keep their peaks. Telemetry has too many columns for that: of it, rows at equal
    distances stay.
    """
    kept: set[int] = set()
    for kind in {row.kind for row in rows}:
        of_kind = [row for row in rows if row.kind == kind]
        names = sorted({name for row in of_kind for name in row.values if name != "diverged"})
        if kind == "telemetry" or not names:
            indices = equidistant(len(of_kind), max_points)
        else:
            indices = downsample([[row.values.get(name) for row in of_kind] for name in names], max_points)
        kept |= {of_kind[index].id for index in indices}
    return [row for row in rows if row.id in kept]


def _row(metric: Metric, *, whole: bool) -> dict[str, Any]:
    row = {"kind": metric.kind, "epoch": metric.epoch, "step": metric.step, "time": metric.time, **metric.values}
    return row | {"superseded": metric.superseded, "attempt": metric.attempt_id} if whole else row


def _table(rows: Sequence[dict[str, Any]]) -> str:
    fixed = ["kind", "epoch", "step", "time"]
    columns = fixed + sorted({name for row in rows for name in row} - set(fixed))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows({**row, "time": row["time"].isoformat()} for row in rows)
    return text.getvalue()
