"""The state of the Ray cluster, as the dispatcher reports it with its lease and the API serves it."""

import logging
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError

logger = logging.getLogger(__name__)

WorkerActivity = Literal["starting", "idle", "busy"]


class RayReport(BaseModel):
    """The connection to the Ray cluster."""

    status: Literal["connected", "unreachable"]
    address: str | None = Field(default=None, description="host:port")


class SlotsReport(BaseModel):
    """The training workers that the cluster has room for."""

    total: int = 0
    busy: int = 0
    free: int = 0
    problem: str | None = Field(default=None, description="why there are none; null if there are slots")


class NodeReport(BaseModel):
    """One node of the cluster."""

    id: str
    address: str | None = None
    cpus: float = 0
    gpus: float = 0
    alive: bool = True


class WorkerReport(BaseModel):
    """One training worker."""

    id: str
    node: str | None = None
    pid: int | None = Field(default=None, description="its process on the node")
    device: str | None = None
    bfloat16: bool = Field(default=False, description="whether the device computes in bfloat16")
    state: WorkerActivity
    attempt: str | None = None
    job: str | None = None


class StepReport(BaseModel):
    """The duration of a training step on a CPU, in float32 and in bfloat16."""

    model: str
    batch_size: int
    float32_s: float
    bfloat16_s: float


class NextUp(BaseModel):
    """The next job of the queue, while it needs more workers than are free."""

    job: str
    num_workers: int


class FullName(BaseModel):
    """A name of which as many jobs run as may. Its other jobs wait."""

    name: str
    running: int
    limit: int


class ClusterReport(BaseModel):
    """The Ray cluster, its nodes, and the training workers on them."""

    ray: RayReport
    slots: SlotsReport = SlotsReport()
    nodes: list[NodeReport] = Field(default_factory=list)
    workers: list[WorkerReport] = Field(default_factory=list)
    next_up: NextUp | None = None
    full_names: list[FullName] = Field(default_factory=list)
    steps: list[StepReport] = Field(
        default_factory=list, description="training steps measured to resolve the precision `auto`"
    )

    def full(self, name: str | None) -> FullName | None:
        """Return the limit that a name has reached, None if it has not."""
        return next((one for one in self.full_names if one.name == name), None)

    @classmethod
    def read(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """Validate a stored report.

        Returns:
            None if there is no report, or if it is not valid here, as a report of another version may be.
        """
        if not stored:
            return None
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            logger.warning("the stored report on the cluster is not valid: %s", error)
            return None
