"""The checkpoints that a rule removes after the end of their job. What was removed is remembered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import TERMINAL
from service.store import checkpoints
from service.store.database import lock_events
from service.store.tables import Checkpoint, Job, RemovedCheckpoint

Rule = Literal["best-and-last", "none"]
"""What a job that has ended keeps: its best and its last checkpoint, or none."""


@dataclass(frozen=True)
class Superfluous:
    """The checkpoints that a job does not keep.

    Attributes:
        removable: Those that can be removed now.
        needed: The ids of those that unfinished jobs and evaluations need.
    """

    removable: Sequence[Checkpoint]
    needed: Sequence[str]


async def candidates(session: AsyncSession, rule: Rule, ended_before: datetime) -> Sequence[str]:
    """Return the ids of the jobs that ended before a time and may have superfluous checkpoints, oldest first."""
    query = select(Checkpoint.job_id).join(Job, Job.id == Checkpoint.job_id)
    query = query.where(Job.status.in_(TERMINAL), Job.finished_at <= ended_before).group_by(Checkpoint.job_id)
    query = query.having(func.count() > (1 if rule == "best-and-last" else 0)).order_by(Checkpoint.job_id)
    return (await session.scalars(query)).all()


async def superfluous(session: AsyncSession, job_id: str, rule: Rule) -> Superfluous:
    """Return the checkpoints that a job does not keep."""
    rows = await checkpoints.of_job(session, job_id)
    unkept = rows if rule == "none" else checkpoints.superfluous(rows, keep_last=1)
    needed = await checkpoints.needed(session, job_id)
    return Superfluous([row for row in unkept if row.id not in needed], [row.id for row in unkept if row.id in needed])


async def remove(session: AsyncSession, job_id: str, rule: Rule, now: datetime) -> Sequence[str]:
    """Delete the rows of the checkpoints that a job does not keep, and remember them.

    The caller deletes the files after the transaction.

    Returns:
        The ids of the checkpoints.
    """
    # A job that is submitted meanwhile either finds a checkpoint and keeps it, or does not find it.
    await session.get(Job, job_id, with_for_update=True)
    await lock_events(session)
    found = (await superfluous(session, job_id, rule)).removable
    for row in found:
        session.add(RemovedCheckpoint(id=row.id, job_id=job_id, step=row.step, rule=rule, removed_at=now))
    await checkpoints.remove(session, [row.id for row in found])
    return [row.id for row in found]
