"""Rows of metrics, and the summaries of jobs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import case, false, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.store.tables import Job, Metric, MetricSummary
from worker.events import Metrics
from worker.metrics import METRICS, MetricKind, OutcomeMetric

SUMMARIZED: tuple[MetricKind, ...] = ("train", "eval")
"""The kinds of rows that the summary covers; telemetry describes the layers of a model."""


async def add(session: AsyncSession, job: Job, attempt_id: str, event: Metrics) -> dict[str, Any]:
    """Insert a row and update the summary of the job. Returns the values of the row, None for those not finite."""
    values: dict[str, Any] = {name: value if math.isfinite(value) else None for name, value in event.values.items()}
    if None in values.values():
        values["diverged"] = True
    session.add(
        Metric(
            job_id=job.id,
            attempt_id=attempt_id,
            seq=event.seq,
            kind=event.kind,
            epoch=event.epoch,
            step=event.step,
            time=event.time,
            values=values,
            superseded=False,
        )
    )
    await session.flush()
    if event.kind in SUMMARIZED:
        job.summary = summarize(job.summary, event.step, values)
        await sort_by_summary(session, {job.id: job.summary})
    return values


async def copy(session: AsyncSession, source: Job, job: Job) -> None:
    """Give a new job the rows and the summary of the job whose training it continues.

    A training of the new number of epochs has no telemetry of an epoch that was measured only because it was the last.
    """
    live = (Metric.job_id == source.id) & ~Metric.superseded
    if (telemetry := source.spec.get("telemetry")) is not None:
        live &= (Metric.kind != "telemetry") | (Metric.epoch % telemetry["every_epochs"] == 0)
    number = func.row_number().over(order_by=Metric.id)
    own = literal(job.id), literal(job.id), number
    rows = select(*own, Metric.kind, Metric.epoch, Metric.step, Metric.time, Metric.values, false()).where(live)
    columns = "job_id", "attempt_id", "seq", "kind", "epoch", "step", "time", "values", "superseded"
    await session.execute(insert(Metric).from_select(columns, rows))
    job.summary = source.summary
    await sort_by_summary(session, {job.id: job.summary})


async def supersede(session: AsyncSession, job: Job, beyond_step: int) -> None:
    """Mark the rows beyond `beyond_step` as superseded: an attempt that resumes there reports them again.

    Rows up to there are live, also those that were superseded by an attempt that resumed earlier and was lost since.
    """
    marked = await session.scalars(
        update(Metric)
        .where(Metric.job_id == job.id, Metric.step > beyond_step, ~Metric.superseded)
        .values(superseded=True)
        .returning(Metric.id)
    )
    without_live_row = (
        select(func.max(Metric.id))
        .where(Metric.job_id == job.id, Metric.step <= beyond_step)
        .group_by(Metric.kind, Metric.step)
        .having(func.min(case((Metric.superseded, 1), else_=0)) == 1)
    )
    revived = await session.scalars(
        update(Metric).where(Metric.id.in_(without_live_row)).values(superseded=False).returning(Metric.id)
    )
    if not (marked.all() or revived.all()):
        return
    summary: dict[str, Any] = {}
    for metric in await rows(session, job.id, kinds=SUMMARIZED):
        summary = summarize(summary, metric.step, metric.values)
    job.summary = summary
    await sort_by_summary(session, {job.id: summary})


async def sort_by_summary(session: AsyncSession, summaries: Mapping[str, dict[str, Any]]) -> None:
    """Update the rows by which jobs are sorted from their summaries, by job."""
    kept = {
        (row.job_id, row.name): row
        for row in await session.scalars(select(MetricSummary).where(MetricSummary.job_id.in_(summaries)))
    }
    for job_id, summary in summaries.items():
        for name in get_args(OutcomeMetric):
            row, entry = kept.get((job_id, name)), summary.get(name)
            if entry is None:
                if row is not None:
                    await session.delete(row)
            elif row is None:
                session.add(MetricSummary(job_id=job_id, name=name, last=entry["last"], best=entry["best"]))
            else:
                row.last, row.best = entry["last"], entry["best"]


def summarize(summary: dict[str, Any], step: int, values: dict[str, Any]) -> dict[str, Any]:
    """Return the summary after one more row: the last and the best value of each metric, with their steps.

    The best value is the least, for images_per_s the greatest. For a metric of the test images in a row with a holdout
    it is the one at the epoch that was best on the holdout, whose value there is `selected`. Metrics of evaluations
    also have their last five values, for the median of these (Wu & He 2018, section 4.1).
    """
    summary = dict(summary)
    for name, value in values.items():
        if name == "diverged" or value is None:
            continue
        entry = dict(summary.get(name) or {"best": value, "best_step": step})
        metric = METRICS.get(name)
        judge = None if metric is None or metric.selected_by is None else values.get(metric.selected_by)
        if judge is not None:
            # An entry without `selected` is that of rows without a holdout, among which none was selected.
            if (before := entry.get("selected")) is None or judge < before:
                entry |= {"best": value, "best_step": step, "selected": judge}
        else:
            higher = metric is not None and metric.better == "higher"
            better = value > entry["best"] if higher else value < entry["best"]
            if better and "selected" not in entry:
                entry |= {"best": value, "best_step": step}
        entry |= {"last": value, "last_step": step}
        if metric is not None and metric.kind == "eval":
            entry["last_5"] = [*entry.get("last_5", ()), value][-5:]
        summary[name] = entry
    return summary


async def rows(
    session: AsyncSession,
    job_id: str,
    *,
    kinds: Sequence[MetricKind] = get_args(MetricKind),
    after_step: int = -1,
    superseded: bool = False,
) -> Sequence[Metric]:
    """Return the rows of a job in the order of their steps; with `superseded`, also the superseded ones."""
    query = select(Metric).where(Metric.job_id == job_id, Metric.kind.in_(kinds), Metric.step > after_step)
    if not superseded:
        query = query.where(~Metric.superseded)
    return (await session.scalars(query.order_by(Metric.step, Metric.id))).all()


@dataclass(frozen=True)
class Curve:
    """One metric of one job, at every step whose row is not superseded, in the order of the steps."""

    job_id: str
    metric: str
    steps: Sequence[int]
    epochs: Sequence[int]
    times: Sequence[datetime]
    values: Sequence[float | None]


async def curves(session: AsyncSession, job_ids: Sequence[str], metrics: Sequence[str]) -> Sequence[Curve]:
    """Return the curves of metrics of jobs: for each job in its order, the metrics in theirs. A curve may be empty."""
    query = (
        select(Metric.job_id, Metric.step, Metric.epoch, Metric.time, Metric.values)
        .where(Metric.job_id.in_(job_ids), Metric.kind.in_({_kind_of(name) for name in metrics}), ~Metric.superseded)
        .order_by(Metric.job_id, Metric.step)
    )
    found: dict[tuple[str, str], list[tuple[int, int, datetime, float | None]]] = {
        (job_id, name): [] for job_id in job_ids for name in metrics
    }
    for job_id, step, epoch, time, values in await session.execute(query):
        for name in metrics:
            if name in values:
                found[job_id, name].append((step, epoch, time, values[name]))
    return [
        Curve(job_id, name, *([row[column] for row in rows] for column in range(4)))  # type: ignore[arg-type]
        for (job_id, name), rows in found.items()
    ]


def _kind_of(metric: str) -> MetricKind:
    described = METRICS.get(metric.rpartition("/")[2])
    return "train" if described is None else described.kind
