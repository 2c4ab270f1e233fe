"""Finding jobs: filters, order, and pages that stay put while jobs are added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Unprocessable
from service.jobs import Status
from service.store.cursors import read_cursor, write_cursor
from service.store.tables import Job, JobLabel

SortField = Literal["created_at", "updated_at", "batch_size", "priority", "name", "status", "normalization", "model"]


@dataclass(frozen=True)
class JobFilter:
    """Which jobs. What is left out does not restrict; several values of one field mean any of them."""

    status: Sequence[Status] = ()
    normalization: Sequence[str] = ()
    batch_size: Sequence[int] = ()
    model: Sequence[str] = ()
    seed: Sequence[int] = ()
    experiment: str | None = None
    labels: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    created_after: datetime | None = None
    search: str | None = None

    def apply(self, query: Select[Any]) -> Select[Any]:
        """Narrow a query over jobs."""
        for column, values in (
            (Job.status, self.status),
            (Job.normalization, self.normalization),
            (Job.batch_size, self.batch_size),
            (Job.model, self.model),
            (Job.seed, self.seed),
        ):
            if values:
                query = query.where(column.in_(values))
        if self.experiment is not None:
            query = query.where(Job.experiment_id == self.experiment)
        if self.created_after is not None:
            query = query.where(Job.created_at > self.created_after)
        if self.search:
            query = query.where(Job.name.icontains(self.search, autoescape=True))
        for key, wanted in self.labels.items():
            values = [wanted] if isinstance(wanted, str) else wanted
            labelled = select(JobLabel.job_id).where(JobLabel.key == key, JobLabel.value.in_(values))
            query = query.where(Job.id.in_(labelled))
        return query

    def job_ids(self) -> Select[str]:
        """A query for the ids of these jobs."""
        return self.apply(select(Job.id))


async def page(
    session: AsyncSession, filter_: JobFilter, *, sort: str = "-created_at", limit: int = 50, cursor: str | None = None
) -> tuple[Sequence[Job], str | None]:
    """A page of jobs, and the cursor of the next or None. Raises `Unprocessable` for a bad sort or cursor."""
    descending = sort.startswith("-")
    name = sort.removeprefix("-")
    if name not in get_args(SortField):
        accepted = ", ".join(get_args(SortField))
        raise Unprocessable(f"sort is {sort!r}: give one of {accepted}, with a minus in front for descending.")
    column = getattr(Job, name)
    # The keys alone first: what has to be sorted is then no larger than an index.
    query = filter_.apply(select(column, Job.id))
    if cursor is not None:
        value, job_id = read_cursor(cursor, sort)
        beyond, tied = (column < value, Job.id < job_id) if descending else (column > value, Job.id > job_id)
        query = query.where(or_(beyond, and_(column == value, tied)))
    order = (column.desc(), Job.id.desc()) if descending else (column, Job.id)
    keys = (await session.execute(query.order_by(*order).limit(limit + 1))).all()
    jobs = {job.id: job for job in await session.scalars(select(Job).where(Job.id.in_([id_ for _, id_ in keys])))}
    found = [jobs[id_] for _, id_ in keys[:limit] if id_ in jobs]
    return found, write_cursor(sort, *keys[limit - 1]) if len(keys) > limit else None
