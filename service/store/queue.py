"""The order in which the queued jobs start, if none is added."""

import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import ACTIVE, Status
from service.store import imports
from service.store.attempts import FAIR_SHARE_WINDOW
from service.store.tables import Attempt, Job


@dataclass(frozen=True)
class Waiting:
    """A queued job."""

    id: str
    priority: int
    experiment: str
    """"" for a job without one; these count as one experiment."""
    num_workers: int
    spec: dict[str, Any]
    submitted_by: str | None


@dataclass(frozen=True)
class Queue:
    """The queued jobs in the order in which they start, and the jobs that hold workers."""

    waiting: Sequence[Waiting]
    active: Sequence[Job]


async def read(session: AsyncSession) -> Queue:
    """Read the queue."""
    group = func.coalesce(Job.experiment_id, "")
    columns = (Job.id, Job.priority, group, Job.num_workers, Job.spec, Job.submitted_by)
    queued = select(*columns).where(Job.status == Status.QUEUED, imports.VISIBLE)
    waiting = [Waiting(*row) for row in await session.execute(queued)]
    active = (await session.scalars(select(Job).where(Job.status.in_(ACTIVE)))).all()
    last = select(Attempt.job_id).order_by(Attempt.id.desc()).limit(FAIR_SHARE_WINDOW).subquery()
    claims = select(group, func.count()).join(last, last.c.job_id == Job.id).group_by(group)
    served: dict[str, int] = dict((await session.execute(claims)).all())
    held: dict[str, int] = defaultdict(int)
    for job in active:
        held[job.experiment_id or ""] += job.num_workers
    return Queue(order(waiting, held, served), active)


def order(waiting: Sequence[Waiting], held: Mapping[str, int], served: Mapping[str, int]) -> list[Waiting]:
    """Return queued jobs in the order in which `attempts.claim` takes them.

    Args:
        waiting: The jobs, in any order.
        held: The workers that each experiment holds.
        served: The jobs of each experiment among the last claims.
    """
    lines: dict[tuple[int, str], list[Waiting]] = defaultdict(list)
    for job in sorted(waiting, key=lambda job: job.id, reverse=True):
        lines[-job.priority, job.experiment].append(job)
    workers, claims = defaultdict(int, held), defaultdict(int, served)
    found = []
    for priority in sorted({priority for priority, _ in lines}):
        heap = [
            (workers[name], claims[name], line[-1].id, name) for (rank, name), line in lines.items() if rank == priority
        ]
        heapq.heapify(heap)
        while heap:
            *_, name = heapq.heappop(heap)
            job = lines[priority, name].pop()
            found.append(job)
            workers[name] += job.num_workers
            claims[name] += 1
            if line := lines[priority, name]:
                heapq.heappush(heap, (workers[name], claims[name], line[-1].id, name))
    return found
