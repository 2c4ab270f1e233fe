"""Queries for curves, and their evaluation."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.filters import Text
from service.api.series import FEWEST_POINTS, MOST_POINTS, POINTS_TOGETHER, downsample, moving_average, points_each
from service.store import Database, jobs, metrics
from service.store.metrics import Curve
from service.store.tables import Job
from worker.spec import TrainingSpec

MOST_JOBS = 500
MOST_METRICS = 20


class CurveView(BaseModel):
    """The curve of one metric of one job: columns of equal length, in the order of the steps."""

    job: str
    metric: str
    step: list[int]
    epoch: list[int]
    time: list[datetime]
    value: list[float | None] = Field(description="null: not finite")
    steps_per_epoch: int | None = Field(
        description="total number of optimizer steps; null if the spec was written by another release"
    )
    started_at: datetime | None = Field(description="time at which the training started")
    smoothed: list[float | None] | None = Field(
        description="moving average over all values up to this step, omitted ones included; null without smoothing"
    )
    count: int = Field(description="number of finite values, omitted ones included")


class Curves(BaseModel):
    """Curves in the order of the jobs in the request, and for each job in the order of the metrics."""

    max_points: int = Field(description="maximum number of points per curve")
    data: list[CurveView]


class CurvesQuery(BaseModel):
    """The jobs, the metrics, and the resolution."""

    model_config = ConfigDict(extra="forbid")

    job: list[Text] = Field(min_length=1, max_length=MOST_JOBS, description="ids of jobs; unknown ones are omitted")
    metric: list[Text] = Field(default=["test_error"], min_length=1, max_length=MOST_METRICS)
    max_points: int | None = Field(
        default=None,
        ge=2,
        le=MOST_POINTS,
        description=f"maximum number of points per curve; by default the curves share {POINTS_TOGETHER}, with "
        f"{FEWEST_POINTS} to {MOST_POINTS} each. A downsampled curve keeps its first and its last point, and the "
        "minimum and the maximum of segments of equal length, so that peaks are preserved",
    )
    smoothing: float = Field(
        default=0,
        ge=0,
        lt=1,
        description="weight of the past in a debiased exponential moving average of all values",
    )


async def curves_of(
    database: Database,
    ids: Sequence[str],
    names: Sequence[str],
    *,
    max_points: int | None = None,
    smoothing: float = 0,
) -> tuple[Curves, list[Job]]:
    """Return the curves of the metrics `names` of the jobs `ids`, and the jobs that exist, both in their order."""
    ids, names = list(dict.fromkeys(ids)), list(dict.fromkeys(names))
    most = max_points or points_each(max(1, len(ids) * len(names)))
    async with database.read() as session:
        found = await metrics.curves(session, ids, names)
        trained = {job.id: job for job in await jobs.of_ids(session, ids)}
    data = [_view(trained[curve.job_id], curve, most, smoothing) for curve in found if curve.job_id in trained]
    return Curves(max_points=most, data=data), [trained[id_] for id_ in ids if id_ in trained]


def _view(job: Job, curve: Curve, max_points: int, smoothing: float) -> CurveView:
    kept = downsample([curve.values], max_points)
    averages = moving_average(curve.values, smoothing) if smoothing else None
    return CurveView(
        job=curve.job_id,
        metric=curve.metric,
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
