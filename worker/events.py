"""What an attempt reports while it trains.

Every event carries a sequence number, unique and increasing within its attempt, so that a report may be read twice and
counted once. Errors are fractions of 1, times are RFC 3339 UTC, durations are seconds.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from worker.metrics import MetricKind

Outcome = Literal["succeeded", "failed", "paused", "cancelled"]
LogLevel = Literal["debug", "info", "warning", "error"]


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int = Field(default=0, ge=0, description="position in the attempt's reports, from 1")
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


class Started(_Event):
    """The model is built and the first step is next."""

    type: Literal["started"] = "started"
    device: str
    precision: Literal["float32", "bfloat16"]
    parameters: int = Field(description="number of trainable parameters")
    steps_per_epoch: int
    total_steps: int
    resumed_from_step: int = Field(description="0 for a fresh start; else the step of the checkpoint")
    versions: dict[str, str] = Field(description="of what computes: python, torch, normlab, ...")


class Progress(_Event):
    """Where training stands; sent after the first step and about once a second. Not a metric: it leaves no row."""

    type: Literal["progress"] = "progress"
    epoch: int = Field(description="epochs completed, plus one: the one in progress, from 1")
    step: int = Field(description="optimizer steps completed, resumed ones included")
    images_per_s: float | None = None
    train_loss: float | None = Field(default=None, description="of the latest step, on the first worker")


class Metrics(_Event):
    """A row of metrics at a step that is a function of the spec alone: a rerun reports the same rows.

    `train` rows come up to ten times per epoch and average over the images since the previous row. An `eval` row comes
    at the end of each epoch. `telemetry` rows, about the normalization layers, come with it if the spec asks for them.
    `worker.metrics` lists what each kind of row contains.
    """

    type: Literal["metrics"] = "metrics"
    kind: MetricKind
    epoch: int = Field(description="the epoch the row belongs to, from 1")
    step: int
    values: dict[str, float]


class File(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    sha256: str


class CheckpointTaken(_Event):
    """A checkpoint was captured at `step`; its bytes travel beside the event."""

    type: Literal["checkpoint"] = "checkpoint"
    epoch: int = Field(description="epochs completed")
    step: int
    metrics: dict[str, float] = Field(description="eval metrics of exactly these weights; empty within an epoch")
    files: dict[str, File]


class Log(_Event):
    """A line for people."""

    type: Literal["log"] = "log"
    level: LogLevel = "info"
    message: str


class Failure(BaseModel):
    """Why an attempt failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Literal["diverged", "out_of_memory", "dataset", "checkpoint", "invalid", "exception", "peer"] = Field(
        description="peer: another worker of the job was gone, which says nothing of why"
    )
    message: str = Field(description="a sentence that says what happened, where, and what to do")
    step: int | None = None
    may_pass: bool = Field(description="whether another attempt could end differently")
    traceback: str | None = None


class Finished(_Event):
    """The last event of an attempt."""

    type: Literal["finished"] = "finished"
    outcome: Outcome
    failure: Failure | None = Field(default=None, description="given when, and only when, the outcome is failed")

    @model_validator(mode="after")
    def _failure_says_why(self) -> Self:
        if (self.outcome == "failed") != (self.failure is not None):
            raise ValueError(
                f"outcome is {self.outcome} and failure is {self.failure}: a failed attempt, and no other, has one"
            )
        return self


Event = Annotated[
    Started | Progress | Metrics | CheckpointTaken | Log | Finished,
    Field(discriminator="type"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Reads one event from JSON or from a dictionary."""
