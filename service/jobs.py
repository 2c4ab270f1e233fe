"""The life of a job: its states, and which may follow which.

A run of a job on a worker is an attempt. `service.store.jobs.change_status` is the one function that changes a state.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from worker.spec import TrainingSpec

Label = Annotated[str, Field(min_length=1, max_length=100)]
Labels = TypeVar("Labels", bound=Mapping[str, str | None])


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued", "waits for a free worker"
    STARTING = "starting", "a worker has it and builds the model"
    RUNNING = "running", "a worker trains it"
    PAUSING = "pausing", "its worker was asked to take a checkpoint and stop"
    PAUSED = "paused", "stopped at a checkpoint until it is resumed"
    CANCELLING = "cancelling", "its worker was asked to stop"
    LOST = "lost", "its worker, node or cluster went away; it is queued again at once, from its last checkpoint"
    SUCCEEDED = "succeeded", "trained to its last epoch"
    FAILED = "failed", "ended by an error of its own; the error says which"
    CANCELLED = "cancelled", "stopped for good on request, its worker free again"

    description: str

    def __new__(cls, value: str, description: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.STARTING, Status.PAUSED, Status.CANCELLED}),
    Status.STARTING: frozenset(
        {Status.RUNNING, Status.QUEUED, Status.PAUSING, Status.CANCELLING, Status.LOST, Status.FAILED}
    ),
    Status.RUNNING: frozenset(
        {Status.SUCCEEDED, Status.QUEUED, Status.PAUSING, Status.CANCELLING, Status.LOST, Status.FAILED}
    ),
    Status.PAUSING: frozenset({Status.PAUSED, Status.SUCCEEDED, Status.CANCELLING, Status.LOST, Status.FAILED}),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
    Status.CANCELLING: frozenset({Status.CANCELLED, Status.SUCCEEDED}),
    Status.LOST: frozenset({Status.QUEUED, Status.PAUSED, Status.FAILED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""Which states may follow which. What has no successor is final."""

TERMINAL = frozenset(status for status, successors in TRANSITIONS.items() if not successors)
ACTIVE = frozenset({Status.STARTING, Status.RUNNING, Status.PAUSING, Status.CANCELLING})
"""The states in which a worker holds the job."""


MOST_LABELS = 32
"""Of one job."""


def _can_be_filtered(labels: Labels) -> Labels:
    for key in labels:
        if ":" in key:
            raise PydanticCustomError(
                "label",
                "labels: the key {key} holds a colon, which separates key from value in a filter",
                {"key": key},
            )
    return labels


class JobRequest(TrainingSpec):
    """What `POST /v1/jobs` accepts: a training, and how the service is to treat it."""

    name: str = Field(default="", max_length=200, description="for people; need not be unique")
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=MOST_LABELS, description="to find the job by")
    priority: int = Field(default=0, ge=-1000, le=1000, description="higher goes first")
    max_retries: int = Field(default=2, ge=0, le=20, description="further attempts after an error that may pass")

    _labels_can_be_filtered = field_validator("labels")(_can_be_filtered)

    @property
    def training(self) -> TrainingSpec:
        """The part a worker is given."""
        return TrainingSpec.model_validate(self.model_dump(include=set(TrainingSpec.model_fields)))


class JobChange(BaseModel):
    """What `PATCH /v1/jobs/{id}` accepts: what people may change of a job at any time. What is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", max_length=200, description="for people; need not be unique")
    notes: str = Field(default="", max_length=10_000, description="plain text, for people")
    labels: dict[Label, Label | None] = Field(
        default_factory=dict,
        max_length=2 * MOST_LABELS,
        description="labels to set; null removes one (RFC 7396), those left out stay",
    )

    _labels_can_be_filtered = field_validator("labels")(_can_be_filtered)
