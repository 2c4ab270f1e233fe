"""The list of jobs: filters, order, and pages that stay consistent while jobs are added."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, and_, false, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from service.experiments.quantities import Condition
from service.jobs import Status
from service.store.cursors import read_cursor, write_cursor
from service.store.identifiers import has_part
from service.store.imports import VISIBLE
from service.store.ordering import Order
from service.store.quantities import conditions, value_of
from service.store.tables import Job, JobLabel, MetricSummary

Place = tuple[Sequence[Any], str]
"""The sort keys of a row, and its id."""
Part = Literal["all", "with", "without"]
"""A part of the jobs, by whether they have the metric of the first sort key."""


@dataclass(frozen=True)
class JobFilter:
    """A filter of jobs. Several values of one field mean any of them; an empty field does not restrict."""

    status: Sequence[Status] = ()
    normalization: Sequence[str] = ()
    batch_size: Sequence[int] = ()
    model: Sequence[str] = ()
    seed: Sequence[int] = ()
    submitted_by: Sequence[str] = ()
    experiment: str | None = None
    labels: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    created_after: datetime | None = None
    search: str | None = None
    id: str | None = None
    where: Sequence[Condition] = ()

    def apply(self, query: Select[Any]) -> Select[Any]:
        """Add the conditions of the filter to a query of jobs, and that they are visible."""
        query = query.where(VISIBLE)
        for column, values in (
            (Job.status, self.status),
            (Job.normalization, self.normalization),
            (Job.batch_size, self.batch_size),
            (Job.model, self.model),
            (Job.seed, self.seed),
            (Job.submitted_by, self.submitted_by),
        ):
            if values:
                query = query.where(column.in_(values))
        if self.experiment is not None:
            query = query.where(Job.experiment_id == self.experiment)
        if self.created_after is not None:
            query = query.where(Job.created_at > self.created_after)
        if self.search:
            query = query.where(Job.name.icontains(self.search, autoescape=True))
        if self.id:
            query = query.where(has_part(Job.id, "job", self.id))
        for key, wanted in self.labels.items():
            values = [wanted] if isinstance(wanted, str) else wanted
            labelled = select(JobLabel.job_id).where(JobLabel.key == key, JobLabel.value.in_(values))
            query = query.where(Job.id.in_(labelled))
        return conditions(query, self.where)

    def job_ids(self) -> Select[str]:
        """Return a query of the ids of these jobs."""
        return self.apply(select(Job.id))


async def among(session: AsyncSession, filter_: JobFilter, job_ids: Collection[str]) -> set[str]:
    """Return those of `job_ids` that the filter selects."""
    return set((await session.scalars(filter_.job_ids().where(Job.id.in_(job_ids)))).all())


async def count(session: AsyncSession, filter_: JobFilter) -> int:
    """Return the number of jobs that a filter selects."""
    return await session.scalar(select(func.count()).select_from(filter_.job_ids().subquery())) or 0


async def page(
    session: AsyncSession, filter_: JobFilter, *, sort: str = "-created_at", limit: int = 50, cursor: str | None = None
) -> tuple[Sequence[Job], str | None]:
    """Return a page of jobs, and the cursor of the next or None. Raises `Unprocessable` for a bad sort or cursor."""
    order = Order.parse(sort)
    behind = None if cursor is None else read_cursor(cursor, order)
    # The sort keys alone are read first, so that the rows to sort are no larger than an index.
    keys: list[Row[Any]] = []
    parts: tuple[Part, ...] = ("with", "without") if order.keys[0].metric else ("all",)
    for part in parts:
        if len(keys) <= limit and (query := _keys(filter_, order, part, behind)) is not None:
            keys += (await session.execute(query.limit(limit + 1 - len(keys)))).all()
    ids = [key[0] for key in keys[:limit]]
    jobs = {job.id: job for job in await session.scalars(select(Job).where(Job.id.in_(ids)))}
    found = [jobs[id_] for id_ in ids if id_ in jobs]
    return found, write_cursor(order, keys[limit - 1][1:], ids[-1]) if len(keys) > limit else None


def _keys(filter_: JobFilter, order: Order, part: Part, behind: Place | None) -> Select[Any] | None:
    """Return a query of ids and sort keys after a place. None if no row can follow.

    An order that begins with a metric is read in two parts, the jobs `with` it and those `without`: each of them walks
    an index, which one order with the nulls last would not.
    """
    if behind is not None and part == "with" and behind[0][0] is None:
        return None
    if behind is not None and part == "without" and behind[0][0] is not None:
        behind = None
    id_: ColumnElement[str] = Job.id  # type: ignore[assignment]
    query: Select[Any] = select()
    columns: list[tuple[ColumnElement[Any], bool]] = []  # with: whether it may be null
    for n, key in enumerate(order.keys):
        if key.metric is None:
            quantity = key.quantity
            columns.append((getattr(Job, key.name), False) if quantity is None else (value_of(quantity), True))
            if n == 0:
                query = query.select_from(Job)
            continue
        summary = aliased(MetricSummary)
        columns.append((getattr(summary, key.value), n > 0 or part != "with"))
        joined = and_(summary.job_id == Job.id, summary.name == key.metric)
        if n == 0 and part == "with":
            id_ = summary.job_id  # type: ignore[assignment]
            query = query.select_from(summary).join(Job, joined)
        else:
            query = (query if n else query.select_from(Job)).outerjoin(summary, joined)
            query = query.where(summary.job_id.is_(None)) if n == 0 else query
    query = filter_.apply(query.add_columns(id_, *(column for column, _ in columns)))
    tied_by = (id_, order.keys[-1].descending)
    terms = [(column, key.descending, null) for (column, null), key in zip(columns, order.keys, strict=True)]
    if behind is not None:
        query = query.where(_beyond([*terms, (*tied_by, False)], [*behind[0], behind[1]]))
        column, descending, nullable = terms[0]
        if not nullable:
            # Implied by the condition above, in a form that can use an index.
            query = query.where(column <= behind[0][0] if descending else column >= behind[0][0])
    if part == "without":
        terms = terms[1:]
    for column, descending, nullable in [*terms, (*tied_by, False)]:
        if nullable:
            query = query.order_by(column.is_(None))
        query = query.order_by(column.desc() if descending else column)
    return query


def _beyond(terms: Sequence[tuple[ColumnElement[Any], bool, bool]], values: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that a row comes after `values` in the order of `terms`, nulls last."""
    (column, descending, nullable), *rest = terms
    value, *others = values
    further: ColumnElement[bool] = false()
    same = column.is_(value)
    if value is not None:
        further, same = column < value if descending else column > value, column == value
        further = or_(further, column.is_(None)) if nullable else further
    return or_(further, and_(same, _beyond(rest, others))) if rest else further
