"""Queries for figures: what is drawn, and how."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.curve_query import MOST_JOBS, MOST_METRICS, CurveView
from service.api.filters import Text
from service.api.http.problems import describe
from service.api.result_query import ExperimentQuery
from service.errors import NotFound
from service.experiments import axes
from service.experiments.titles import job_title
from service.figures import PAGE_MM, Chart, Curve, as_csv, draw
from service.figures.curves import Across, Spread
from service.store.tables import Job
from worker.metrics import METRICS, MetricName

FigureFormat = Literal["svg", "pdf", "png", "csv"]
MEDIA_TYPES: dict[FigureFormat, str] = {
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "png": "image/png",
    "csv": "text/csv",
}
SHUT = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""A figure or a report loads and runs nothing. Its style is inline, so that it can be kept as one file."""

FIGURES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The figure; csv: what is drawn, one line for each point",
        "content": {
            kind: {
                "schema": {"type": "string"} | ({} if kind in ("text/csv", "image/svg+xml") else {"format": "binary"})
            }
            for kind in MEDIA_TYPES.values()
        },
    }
}
ANSWERS = describe(401, 404, 422, answers=FIGURES)


class StyleQuery(BaseModel):
    """How a figure is drawn."""

    model_config = ConfigDict(extra="forbid")

    width: float = Field(
        default=PAGE_MM, ge=40, le=400, description="width in mm: 84 is one column of a paper, 174 two"
    )
    title: bool = Field(default=False, description="whether the title is above the figure")
    log_y: bool = Field(default=False, description="whether the vertical axis is logarithmic")


class AcrossQuery(StyleQuery):
    """How curves are drawn."""

    x: Across = Field(default="epoch", description="the horizontal axis; time: seconds since the start")
    log_x: bool = Field(default=False, description="whether the horizontal axis is logarithmic")
    smoothing: float = Field(default=0, ge=0, lt=1, description="weight of the past in a moving average")


class ResultsFigureQuery(ExperimentQuery, StyleQuery):
    """A figure of results."""

    row: list[Text] = Field(default_factory=list, description="labels of the rows to draw; default: all")


class CellCurvesQuery(AcrossQuery):
    """A figure of the learning curves of an experiment."""

    metric: MetricName | None = Field(default=None, description="default: that of the declared outcome")
    cell: list[Annotated[Text, Field(pattern="~")]] = Field(
        default_factory=list, description="row~column of the cells to draw, by their labels; default: all"
    )
    spread: Spread = Field(
        default="interval",
        description="interval: the mean with its interval over the seeds; range: with the minimum and the maximum; "
        "each: a line for each seed",
    )
    confidence: float = Field(default=0.95, ge=0.5, le=0.999)


class JobCurvesQuery(AcrossQuery):
    """A figure of the learning curves of jobs."""

    job: list[Text] = Field(min_length=1, max_length=MOST_JOBS, description="ids of jobs; unknown ones are omitted")
    metric: list[MetricName] = Field(default=["test_error"], min_length=1, max_length=MOST_METRICS)
    layer: Text | None = Field(
        default=None, description="layer whose values are drawn, of metrics that every layer has (`per_layer`)"
    )

    @property
    def row_keys(self) -> list[str]:
        """The keys of the metrics in a row."""
        described = [METRICS[name] for name in self.metric]
        return [one.of_layer(self.layer) if self.layer and one.per_layer else one.name for one in described]


Drawn = TypeVar("Drawn")
_ARTIST = ThreadPoolExecutor(1, "figures")
"""Figures are drawn one after the other. In the threads of other work they would wait and occupy them."""


async def drawing(draws: Callable[[], Drawn]) -> Drawn:
    """Call a function that draws, in the thread of the figures."""
    return await asyncio.get_running_loop().run_in_executor(_ARTIST, draws)


async def answer(chart: Chart, format: FigureFormat, query: StyleQuery, of: str) -> Response:
    """Return a chart as a response. Raises `NotFound` if there is nothing to draw."""
    if chart.is_empty:
        raise NotFound("figure", f"of {of}: no job of it has a value yet")
    headers = {"Content-Security-Policy": SHUT, "X-Content-Type-Options": "nosniff"}
    if format == "csv":
        return Response(as_csv(chart), media_type=MEDIA_TYPES[format], headers=headers)
    content = await drawing(partial(draw, chart, format, width_mm=query.width, titled=query.title))
    return Response(content, media_type=MEDIA_TYPES[format], headers=headers)


def drawn(curve: CurveView, across: Across) -> Curve:
    """Return a curve over the chosen horizontal axis, with its metric without the layer."""
    x: Sequence[float]
    if across == "time":
        start: datetime | None = curve.started_at or (curve.time[0] if curve.time else None)
        x = [] if start is None else [(time - start).total_seconds() for time in curve.time]
    elif across == "step":
        x = curve.step
    elif curve.steps_per_epoch:
        x = [step / curve.steps_per_epoch for step in curve.step]
    else:
        x = curve.epoch
    metric = curve.metric.rpartition("/")[2]
    return Curve(curve.job, metric, x, curve.value if curve.smoothed is None else curve.smoothed)


def names_of(jobs: Sequence[Job]) -> dict[str, str]:
    """Return a name of each job that tells it from the others, without the words that all of them start with."""
    names = {job.id: job_title(job.name, job.spec) for job in jobs}
    for part in ("seed", "id"):
        given = Counter(names.values())
        for job in jobs:
            if given[names[job.id]] > 1:
                names[job.id] += f", seed {job.spec['seed']}" if part == "seed" else f", {job.id}"
    words = [name.split(" ") for name in names.values()]
    common = 0
    while len(words) > 1 and all(common < len(one) - 1 and one[common] == words[0][common] for one in words):
        common += 1
    return {job: " ".join(name.split(" ")[common:]) for job, name in names.items()}


def datasets_of(jobs: Sequence[Job]) -> list[str]:
    """Return the labels of the datasets of jobs."""
    return sorted({axes.label("dataset", job.spec["dataset"]) for job in jobs})
