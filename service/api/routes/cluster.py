"""The cluster, as the dispatcher last reported it, and the queue."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.context import Context
from service.api.http.problems import describe
from service.cluster_report import ClusterReport, NextUp, NodeReport, RayReport, SlotsReport, WorkerReport
from service.jobs import Status
from service.store import jobs, leases

router = APIRouter(tags=["cluster"])


class DispatcherView(BaseModel):
    """The process that starts jobs on workers."""

    alive: bool = Field(description="whether it holds its lease; if not, this is its last report")
    holder: str | None
    renewed_at: datetime | None


class QueueView(BaseModel):
    """The jobs that wait for workers."""

    queued: int
    oldest_queued_at: datetime | None
    next_up: NextUp | None = Field(
        description="the next job, before which no other job starts; null if no job waits for more workers"
    )
    too_large: int = Field(description="queued jobs that need more workers than there are slots")


class ClusterView(BaseModel):
    """The dispatcher, the cluster and the queue."""

    dispatcher: DispatcherView
    ray: RayReport
    slots: SlotsReport
    nodes: list[NodeReport]
    workers: list[WorkerReport]
    queue: QueueView


@router.get("/v1/cluster", operation_id="get_cluster", responses=describe(401))
async def show(context: Context) -> ClusterView:
    """Nodes, slots and warm workers: the last report of the dispatcher, and whether it is still active."""
    async with context.database.read() as session:
        beat = await leases.heartbeat(session, "dispatcher", context.watch)
        counts = await jobs.count_by_status(session)
        oldest = await jobs.oldest_queued_at(session)
        report = ClusterReport.read(beat.lease.report if beat else None)
        too_large = await jobs.count_queued_beyond(session, report.slots.total) if report else 0
    report = report or ClusterReport(ray=RayReport(status="unreachable"))
    return ClusterView(
        dispatcher=DispatcherView(
            alive=beat is not None and beat.alive,
            holder=beat.lease.holder if beat else None,
            renewed_at=beat.lease.renewed_at if beat else None,
        ),
        ray=report.ray,
        slots=report.slots,
        nodes=report.nodes,
        workers=report.workers,
        queue=QueueView(
            queued=counts[Status.QUEUED],
            oldest_queued_at=oldest,
            next_up=report.next_up,
            too_large=too_large,
        ),
    )
