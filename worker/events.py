"""The events that an attempt reports while it trains, and the requests that it accepts.

Every event has a sequence number that increases within its attempt, so that an event which is delivered twice is stored
once. Errors are fractions, times are RFC 3339 in UTC, durations are in seconds.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from worker.metrics import MetricKind, SplitName

Outcome = Literal["succeeded", "failed", "paused", "cancelled"]
LogLevel = Literal["debug", "info", "warning", "error"]
StopRequest = Literal["pause", "cancel"]
"""A request to a running attempt: `pause` takes a checkpoint first, `cancel` does not."""
Precision = Literal["float32", "bfloat16"]
"""The format of activations. Weights and optimizer updates are in float32."""


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int = Field(default=0, ge=0, description="sequence number in the attempt, from 1; 0: not numbered yet")
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


class Usage(BaseModel):
    """What the training process of rank 0 has used since its attempt started."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cpu_s: float = Field(ge=0, description="CPU seconds of all its threads, user and system")
    peak_memory_bytes: int = Field(
        ge=0, lt=2**63, description="largest resident memory, sampled about once a second, in bytes"
    )
    peak_gpu_memory_bytes: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description="largest memory of tensors on the GPU, as torch allocates it, in bytes; null on a CPU",
    )
    gpu_utilization: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="fraction of the time in which the GPU computed, for any process, sampled about once a second; "
        "null on a CPU, and where NVML does not say it",
    )


class Started(_Event):
    """The model is built and the first step follows."""

    type: Literal["started"] = "started"
    device: str
    precision: Precision
    parameters: int = Field(description="number of trainable parameters")
    steps_per_epoch: int
    total_steps: int
    resumed_from_step: int = Field(description="step of the checkpoint that it resumed from; 0: from the start")
    versions: dict[str, str] = Field(
        description="versions of the software, by name: python, torch, numpy, normlab; with CUDA also cuda, cudnn, "
        "driver, triton"
    )


class Progress(_Event):
    """The current position, sent after the first step and about once a second. It is not stored as a metric."""

    type: Literal["progress"] = "progress"
    epoch: int = Field(description="current epoch, from 1")
    step: int = Field(description="completed optimizer steps, including those of earlier attempts")
    images_per_s: float | None = None
    train_loss: float | None = Field(default=None, description="loss of the latest step on rank 0")
    usage: Usage | None = Field(default=None, description="null if it is not measured")


class Metrics(_Event):
    """A row of metrics. Its step is a function of the spec alone, so that a rerun reports the same rows.

    `train` rows come up to ten times per epoch and average over the images since the previous row. An `eval` row comes
    at the end of each epoch. `telemetry` rows, about layers and gradient, come with it if the spec asks for them.
    `worker.metrics` lists what each kind of row contains.
    """

    type: Literal["metrics"] = "metrics"
    kind: MetricKind
    epoch: int = Field(description="epoch of the row, from 1")
    step: int
    values: dict[str, float]
    eval_images_per_s: float | None = Field(
        default=None, description="speed of the evaluation of an `eval` row, all workers together; it is not a metric"
    )


class File(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    sha256: str


class CheckpointTaken(_Event):
    """A checkpoint was taken; its files are sent beside the event."""

    type: Literal["checkpoint"] = "checkpoint"
    epoch: int = Field(description="completed epochs")
    step: int
    metrics: dict[str, float] = Field(description="evaluation metrics of exactly these weights; empty within an epoch")
    files: dict[str, File]


class Mistake(BaseModel):
    """An image that a network classifies wrongly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int = Field(description="position among the training or test images of the dataset")
    label: int
    predicted: int
    confidence: float = Field(description="probability that the network gives the predicted class")
    pixels: str = Field(description="base64 of its 32 × 32 pixels, row by row, each as red, green and blue bytes")


class Evaluated(BaseModel):
    """The result of an evaluation of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: SplitName
    precision: Precision
    batch_statistics: int | None
    precise_statistics: int | None
    device: str
    images: int
    loss: float | None = Field(description="mean cross-entropy in nats; null if it is not finite")
    error: float
    confusion: list[list[int]] = Field(description="number of images by class (row) and predicted class (column)")
    mistakes: list[Mistake] = Field(description="the misclassified images of the greatest confidence, that one first")


class Log(_Event):
    """A log message."""

    type: Literal["log"] = "log"
    level: LogLevel = "info"
    message: str


class Failure(BaseModel):
    """Why an attempt failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Literal["diverged", "out_of_memory", "dataset", "checkpoint", "invalid", "exception", "peer"] = Field(
        description="peer: another worker of the job was lost, for a reason unknown to this worker"
    )
    message: str = Field(description="what happened, where, and a remedy")
    step: int | None = None
    may_pass: bool = Field(description="whether another attempt may succeed")
    traceback: str | None = None


class Finished(_Event):
    """The last event of an attempt."""

    type: Literal["finished"] = "finished"
    outcome: Outcome
    failure: Failure | None = Field(default=None, description="given if and only if the outcome is failed")
    usage: Usage | None = Field(default=None, description="null if it is not measured")

    @model_validator(mode="after")
    def _failure_says_why(self) -> Self:
        if (self.outcome == "failed") != (self.failure is not None):
            raise ValueError(
                f"outcome is {self.outcome}, failure is {self.failure}: a failed attempt, and only it, has a failure"
            )
        return self


Event = Annotated[
    Started | Progress | Metrics | CheckpointTaken | Log | Finished,
    Field(discriminator="type"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Validates one event, from JSON or from a dictionary."""
