"""Curves of one metric of many jobs at once, thin enough to be drawn together."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.context import Context
from service.api.filters import Text
from service.api.http.problems import describe
from service.store import jobs, metrics
from service.store.metrics import Curve
from service.store.tables import Job
from worker.spec import TrainingSpec

router = APIRouter(tags=["metrics"])

MOST_JOBS = 500
POINTS_TOGETHER = 16_000
FEWEST_POINTS, MOST_POINTS = 40, 2000


class CurveView(BaseModel):
    """The curve of one job: columns of one length, in the order of the steps."""

    job: str
    step: list[int]
    epoch: list[int]
    time: list[datetime]
    value: list[float | None] = Field(description="null where it was not finite")
    steps_per_epoch: int | None = Field(description="optimizer steps; null where the spec is of another release")
    started_at: datetime | None = Field(description="when the job began to train")
    smoothed: list[float | None] | None = Field(
        description="the moving average over all values up to here, those left out too; null where none was asked for"
    )
    count: int = Field(description="finite values there are, those left out too")


class Curves(BaseModel):
    """Curves, in the order of the jobs that were asked for."""

    metric: str
    max_points: int = Field(description="a curve at most")
    data: list[CurveView]


class CurvesQuery(BaseModel):
    """Of which jobs, which metric, how fine."""

    model_config = ConfigDict(extra="forbid")

    job: list[Text] = Field(min_length=1, max_length=MOST_JOBS, description="ids of jobs; unknown ones are left out")
    metric: Text = "test_error"
    max_points: int | None = Field(
        default=None,
        ge=2,
        le=MOST_POINTS,
        description=f"points a curve at most; by default {POINTS_TOGETHER} are shared by the curves, "
        f"{FEWEST_POINTS} to {MOST_POINTS} each. A curve that is thinned keeps its first and its last point, and the "
        "least and the greatest value of stretches of equal length, so that its peaks stay",
    )
    smoothing: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="weight of the past in an exponential moving average, unbiased from the first value on",
    )


@router.get("/v1/curves", operation_id="list_curves", responses=describe(401, 422))
async def find(context: Context, query: Annotated[CurvesQuery, Query()]) -> Curves:
    """One metric of up to 500 jobs, to be drawn together."""
    ids = list(dict.fromkeys(query.job))
    max_points = query.max_points or points_each(len(ids))
    async with context.database.read() as session:
        found = await metrics.curves(session, ids, query.metric)
        trained = {job.id: job for job in await jobs.of_ids(session, ids)}
    data = [
        _view(trained[curve.job_id], curve, max_points, query.smoothing) for curve in found if curve.job_id in trained
    ]
    return Curves(metric=query.metric, max_points=max_points, data=data)


def points_each(num_curves: int) -> int:
    """Points a curve, such that all of them together stay quick to draw."""
    return max(FEWEST_POINTS, min(MOST_POINTS, POINTS_TOGETHER // num_curves))


def thinned(values: Sequence[float | None], max_points: int) -> list[int]:
    """Which of `values` to keep, at most `max_points`: both ends, and the extremes of stretches of equal length."""
    if len(values) <= max_points:
        return list(range(len(values)))
    kept = {0, len(values) - 1}
    stretches = (max_points - 2) // 2
    for number in range(stretches):
        first, end = (1 + (len(values) - 2) * bound // stretches for bound in (number, number + 1))
        finite = [index for index in range(first, end) if values[index] is not None]
        if finite:
            kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}  # type: ignore[arg-type]
    return sorted(kept)


def smooth(values: Sequence[float | None], weight: float) -> list[float | None]:
    """An exponential moving average without the pull of its beginning (as Adam corrects its moments)."""
    total = mass = 0.0
    averages: list[float | None] = []
    for value in values:
        if value is None:
            averages.append(None)
            continue
        total, mass = weight * total + (1 - weight) * value, weight * mass + (1 - weight)
        averages.append(total / mass)
    return averages


def _view(job: Job, curve: Curve, max_points: int, smoothing: float) -> CurveView:
    kept = thinned(curve.values, max_points)
    averages = smooth(curve.values, smoothing) if smoothing else None
    return CurveView(
        job=curve.job_id,
        step=[curve.steps[index] for index in kept],
        epoch=[curve.epochs[index] for index in kept],
        time=[curve.times[index] for index in kept],
        value=[curve.values[index] for index in kept],
        steps_per_epoch=_steps_per_epoch(job),
        started_at=job.started_at,
        smoothed=None if averages is None else [averages[index] for index in kept],
        count=sum(value is not None for value in curve.values),
    )


def _steps_per_epoch(job: Job) -> int | None:
    try:
        return TrainingSpec.model_validate(job.spec).steps_per_epoch
    except ValidationError:
        return None
