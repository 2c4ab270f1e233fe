"""Queries for figures of many jobs by their quantities, and the jobs that they draw."""

from collections.abc import Sequence

from pydantic import Field

from service.api.figure_query import StyleQuery
from service.api.filters import JobFilterQuery, Text
from service.errors import Unprocessable
from service.experiments.quantities import ACCEPTED, Measured, Quantity
from service.experiments.titles import job_title
from service.store import Database, jobs, listing
from service.store.tables import Job

MOST_JOBS = 1000
"""The newest jobs of the filter that a figure has."""
MOST_AXES = 20


class JobsFigureQuery(JobFilterQuery, StyleQuery):
    """A figure of the newest 1000 jobs of a filter, in the colours of their groups."""

    by: Text = Field(default="normalization", description=f"what tells the colours: {ACCEPTED}")
    group: list[Text] = Field(default_factory=list, description="groups to draw, by their labels; default: all")

    def shows(self, group: str) -> bool:
        """Whether a group is drawn. Numbers may be written in any form."""
        return not self.group or any(_same(group, one) for one in self.group)


class ScatterQuery(JobsFigureQuery):
    """A figure of jobs as points."""

    x: Text = Field(default="batch_size", description=f"the horizontal axis: {ACCEPTED}")
    y: Text = Field(default="test_error", description=f"the vertical axis: {ACCEPTED}")
    log_x: bool = Field(default=False, description="whether the horizontal axis is logarithmic")


class ParallelQuery(JobsFigureQuery):
    """A figure of jobs as lines through several axes."""

    axis: list[Text] = Field(min_length=2, max_length=MOST_AXES, description=f"the axes in their order: {ACCEPTED}")


def quantity(parameter: str, name: str) -> Quantity:
    """Return the quantity that a parameter names. Raises `Unprocessable`, which says what is accepted."""
    try:
        return Quantity.parse(name)
    except ValueError as error:
        raise Unprocessable(f"{parameter} is {error}") from None


async def measured(database: Database, query: JobsFigureQuery) -> tuple[list[Measured], Sequence[Job]]:
    """Return the newest jobs of the filter, as their quantities are read from them."""
    async with database.read() as session:
        found, _ = await listing.page(session, query.job_filter(), limit=MOST_JOBS)
        ids = [job.id for job in found]
        labels, durations = await jobs.labels(session, ids), await jobs.durations_s(session, ids)
    return [
        Measured(
            job.id,
            job_title(job.name, job.spec),
            job.spec,
            job.summary,
            labels.get(job.id, {}),
            durations.get(job.id),
        )
        for job in found
    ], found


def _same(label: str, given: str) -> bool:
    try:
        return label == given or float(label) == float(given)
    except ValueError:
        return False
