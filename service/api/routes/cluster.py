"""What there is to compute with, as the dispatcher last reported it."""

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.context import Context
from service.api.http.problems import describe
from service.jobs import Status
from service.store import jobs, leases

router = APIRouter(tags=["cluster"])


class DispatcherView(BaseModel):
    """The process that gives jobs to workers."""

    alive: bool = Field(description="false: what follows is what was last known")
    holder: str | None
    renewed_at: datetime | None


class RayView(BaseModel):
    """The Ray cluster."""

    status: Literal["connected", "unreachable"]
    address: str | None = None


class SlotsView(BaseModel):
    """Places where one training can run."""

    total: int = 0
    busy: int = 0
    free: int = 0


class NodeView(BaseModel):
    """One machine."""

    id: str
    address: str | None = None
    cpus: float = 0
    gpus: float = 0
    alive: bool = True


class WorkerView(BaseModel):
    """One training worker."""

    id: str
    node: str | None = None
    pid: int | None = Field(default=None, description="its process on the node")
    device: str | None = None
    state: Literal["starting", "idle", "busy"]
    attempt: str | None = None
    job: str | None = None


class NextUpView(BaseModel):
    """A job of several workers that is next."""

    job: str
    num_workers: int


class QueueView(BaseModel):
    """What waits."""

    queued: int
    oldest_queued_at: datetime | None
    next_up: NextUpView | None = Field(description="waits until so many workers are free at once; nothing overtakes it")
    too_large: int = Field(description="queued jobs that need more workers than there are slots")


class ClusterView(BaseModel):
    """The dispatcher, the cluster behind it, and the queue before it."""

    dispatcher: DispatcherView
    ray: RayView
    slots: SlotsView
    nodes: list[NodeView]
    workers: list[WorkerView]
    queue: QueueView


@router.get("/v1/cluster", operation_id="get_cluster", responses=describe(401))
async def show(context: Context) -> ClusterView:
    """Nodes, slots and warm workers. While the dispatcher is away it says so, with what was last known."""
    async with context.database.read() as session:
        lease = await leases.get(session, "dispatcher")
        now = await leases.now(session)
        counts = await jobs.count_by_status(session)
        oldest = await jobs.oldest_queued_at(session)
        report: dict[str, Any] = lease.report if lease else {}
        slots = SlotsView.model_validate(report.get("slots") or {})
        too_large = await jobs.count_queued_beyond(session, slots.total) if "slots" in report else 0
    alive = lease is not None and lease.expires_at > now
    return ClusterView(
        dispatcher=DispatcherView(
            alive=alive, holder=lease.holder if lease else None, renewed_at=lease.renewed_at if lease else None
        ),
        ray=RayView.model_validate(report.get("ray") or {"status": "unreachable"}),
        slots=slots,
        nodes=[NodeView.model_validate(node) for node in report.get("nodes", [])],
        workers=[WorkerView.model_validate(worker) for worker in report.get("workers", [])],
        queue=QueueView(
            queued=counts[Status.QUEUED],
            oldest_queued_at=oldest,
            next_up=report.get("next_up"),
            too_large=too_large,
        ),
    )
