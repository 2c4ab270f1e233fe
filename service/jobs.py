"""The life cycle of a job: its statuses, the transitions between them, and the actions that each status permits.

A run of a job on its workers is an attempt. Only `service.store.jobs.change_status` changes a status.
`python -m service.jobs` prints the state diagram of `service/README.md`.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from worker.spec import MOST_EPOCHS, TrainingSpec

Label = Annotated[str, Field(min_length=1, max_length=100)]
Labels = TypeVar("Labels", bound=Mapping[str, str | None])


class Described(StrEnum):
    """A string enumeration whose members have descriptions."""

    description: str

    def __new__(cls, value: str, description: str = "") -> Self:
        """Create a member from its value and its description."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member


class Status(Described):
    """The status of a job."""

    QUEUED = "queued", "Waits for a free worker."
    STARTING = "starting", "Assigned to a worker, which is building the model."
    RUNNING = "running", "A worker is training the model."
    PAUSING = "pausing", "The worker was asked to save a checkpoint and stop."
    PAUSED = "paused", "Stopped at a checkpoint until it is resumed."
    CANCELLING = "cancelling", "The worker was asked to stop."
    LOST = "lost", "The worker, its node or the cluster disappeared. The job is queued again, from its last checkpoint."
    SUCCEEDED = "succeeded", "Trained to the last epoch."
    FAILED = "failed", "Ended by an error of the training itself, which the job reports."
    CANCELLED = "cancelled", "Stopped for good on request. Its worker is free again."


class Action(Described):
    """What a client may ask of a job."""

    PAUSE = "pause", "Save a checkpoint and stop until the job is resumed."
    RESUME = "resume", "Return a paused job to the queue. It continues from its last checkpoint."
    CANCEL = "cancel", "Stop the job for good. Its checkpoints are kept."
    RETRY = "retry", "Queue a new job with the same specification."
    EXTEND = "extend", "Queue a new job that continues this one for more epochs, if its schedule allows it."
    DELETE = "delete", "Delete the job with its metrics, logs and checkpoints."


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
"""The statuses that may follow each status. A status without a successor is terminal."""

ACTIONS: dict[Status, frozenset[Action]] = {
    Status.QUEUED: frozenset({Action.PAUSE, Action.CANCEL}),
    Status.STARTING: frozenset({Action.PAUSE, Action.CANCEL}),
    Status.RUNNING: frozenset({Action.PAUSE, Action.CANCEL}),
    Status.PAUSING: frozenset({Action.CANCEL}),
    Status.PAUSED: frozenset({Action.RESUME, Action.CANCEL}),
    Status.CANCELLING: frozenset(),
    Status.LOST: frozenset(),
    Status.SUCCEEDED: frozenset({Action.EXTEND, Action.DELETE}),
    Status.FAILED: frozenset({Action.RETRY, Action.DELETE}),
    Status.CANCELLED: frozenset({Action.RETRY, Action.DELETE}),
}
"""The actions that change a job in each status. Repeating the action that led to a status changes nothing."""

TERMINAL = frozenset(status for status, successors in TRANSITIONS.items() if not successors)
"""The statuses that do not change any more."""
ACTIVE = frozenset({Status.STARTING, Status.RUNNING, Status.PAUSING, Status.CANCELLING})
"""The statuses in which the job occupies its workers."""
OUTCOMES = (Status.SUCCEEDED, Status.PAUSED, Status.CANCELLED, Status.FAILED, Status.LOST)
"""How an attempt can end."""


def state_diagram() -> str:
    """Draw `TRANSITIONS` as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {Status.QUEUED}"]
    for status, successors in TRANSITIONS.items():
        lines += [f"    {status} --> {successor}" for successor in Status if successor in successors]
        if status in TERMINAL:
            lines.append(f"    {status} --> [*]")
    return "\n".join(lines)


UNSTORABLE = re.compile("[\\0\ud800-\udfff]")
"""The characters that PostgreSQL cannot store: NUL, and surrogates without their pair."""
MOST_LABELS = 32
"""Maximum number of labels of a job."""


def _can_be_filtered(labels: Labels) -> Labels:
    for key, value in labels.items():
        if wrong := UNSTORABLE.search(key + (value or "")):
            raise PydanticCustomError(
                "label",
                "labels: {key} has the character {character}, which databases cannot store",
                {"key": ascii(key), "character": ascii(wrong[0])},
            )
        if ":" in key:
            raise PydanticCustomError(
                "label",
                "labels: the key {key} contains a colon, which separates key and value in a filter",
                {"key": key},
            )
    return labels


class JobRequest(TrainingSpec):
    """The body of `POST /v1/jobs`: a training specification, and how the service handles the job."""

    name: str = Field(default="", max_length=200, description="display name; need not be unique")
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=MOST_LABELS, description="for filtering")
    priority: int = Field(default=0, ge=-1000, le=1000, description="jobs with a higher priority start first")
    max_retries: int = Field(default=2, ge=0, le=20, description="retries after an error that may be temporary")

    _labels_can_be_filtered = field_validator("labels")(_can_be_filtered)

    @property
    def training(self) -> TrainingSpec:
        """The training specification, which the workers receive."""
        return TrainingSpec.model_validate(self.model_dump(include=set(TrainingSpec.model_fields)))


LabelChange = Annotated[
    dict[Label, Label | None],
    Field(
        max_length=2 * MOST_LABELS,
        description="labels to set; null removes a label (RFC 7396), omitted labels do not change",
    ),
    AfterValidator(_can_be_filtered),
]


class JobChange(BaseModel):
    """The body of `PATCH /v1/jobs/{id}`: fields that can change in any status. Omitted fields keep their values."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", max_length=200, description="display name; need not be unique")
    notes: str = Field(default="", max_length=10_000, description="notes in plain text")
    priority: int = Field(default=0, ge=-1000, le=1000, description="jobs with a higher priority start first")
    labels: LabelChange = Field(default_factory=dict)


class JobExtension(BaseModel):
    """The body of `POST /v1/jobs/{id}/extend`."""

    model_config = ConfigDict(extra="forbid")

    epochs: int = Field(ge=1, le=MOST_EPOCHS, strict=True, description="epochs of the whole training, with those done")


if __name__ == "__main__":
    print(state_diagram())
