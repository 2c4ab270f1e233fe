"""Who submits jobs and experiments, and how many jobs of theirs may wait."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import QuotaExceeded
from service.jobs import ACTIVE, Status
from service.store.database import lock_events
from service.store.tables import Job

WAITING = (Status.QUEUED, Status.PAUSED)
"""The statuses of jobs that wait. A paused job does, because it may be queued again at any time."""


@dataclass(frozen=True)
class Submitter:
    """Who submits: the name of a token, None without tokens. `most_queued` of their jobs may wait, None: any number."""

    name: str | None = None
    most_queued: int | None = None


NOBODY = Submitter()
"""Who submits without a token."""


async def require_room(session: AsyncSession, by: Submitter, added: int) -> None:
    """Check in a write transaction that jobs may be added to those that wait. Raises `QuotaExceeded`."""
    if by.most_queued is None or added == 0:
        return
    # Submissions of one name take turns, also on several replicas, so that they do not exceed the limit together.
    await lock_events(session)
    query = select(func.count()).where(Job.status.in_(WAITING), Job.submitted_by == by.name)
    waiting = await session.scalar(query) or 0
    if waiting + added > by.most_queued:
        raise QuotaExceeded(_refusal(by, waiting, added))


def _refusal(by: Submitter, waiting: int, added: int) -> str:
    assert by.most_queued is not None
    room = max(0, by.most_queued - waiting)
    more = "no more" if room == 0 else f"at most {room} more"
    accepted = f"{by.name} can submit {more} now, and others once some of these have started or are cancelled"
    if added > by.most_queued:
        accepted = f"submit at most {by.most_queued} at once; {accepted}"
    jobs = "1 job" if added == 1 else f"{added} jobs"
    return (
        f"This request adds {jobs}. {by.name} has {waiting} queued or paused jobs, and the limit of this name is "
        f"{by.most_queued} (NORMLAB_QUOTAS): {accepted}. Nothing was stored."
    )


async def running(session: AsyncSession) -> dict[str, int]:
    """Return how many jobs of each name hold workers. Names without such jobs are omitted."""
    query = select(Job.submitted_by, func.count()).where(Job.status.in_(ACTIVE), Job.submitted_by.is_not(None))
    return {name: count for name, count in await session.execute(query.group_by(Job.submitted_by)) if name is not None}
