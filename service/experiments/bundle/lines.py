"""The models of the documents in a bundle. They validate what is written, and what is read before it is stored.

A bundle may come from anyone. What is accepted here can be stored, listed and compared like the rows of this service.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    model_validator,
)

from service.errors import InvalidFields
from service.experiments.request import MAX_NAME, ExperimentRequest
from service.experiments.search import first_jobs
from service.jobs import TERMINAL, JobChange, JobRequest, Status
from worker.events import File, Log, Outcome, Precision, Started
from worker.metrics import METRICS, MetricKind
from worker.spec import TrainingSpec

__all__ = [
    "AttemptLine",
    "CheckpointLine",
    "EventLine",
    "ExperimentFile",
    "JobLine",
    "Line",
    "Manifest",
    "MetricLine",
]

_Id = Annotated[str, Field(pattern=r"^[a-z]{1,20}_[0-9a-z]{1,40}$")]
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Bytes = Annotated[int, Field(ge=0, lt=2**63)]
# Every time zone of such a time is between the years 1 and 9999, which is what Python and both databases can hold.
_Time = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC))]
_MAX_KEY = 200
_Priority = Annotated[int, Field(ge=-1000, le=1000)]


class Line(BaseModel):
    """The base of all documents."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ExperimentFile(Line):
    """`experiment.json`."""

    id: _Id
    name: Annotated[str, Field(max_length=MAX_NAME)]
    request: dict[str, Any]
    priority: _Priority
    requested_state: Literal["paused", "cancelled"] | None
    precision: Precision | None = None
    created_at: _Time
    updated_at: _Time

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, data: Any) -> Any:
        if isinstance(data, dict) and "wish" in data:
            data = dict(data)
            data["requested_state"] = data.pop("wish")
        return data

    @model_validator(mode="after")
    def _can_be_expanded(self) -> Self:
        try:
            first_jobs(ExperimentRequest.model_validate(self.request).resolved())
        except InvalidFields as error:
            path, detail = error.fields[0]
            raise ValueError(f"request.{'.'.join(map(str, path))}: {detail}") from error
        return self


class JobError(Line):
    """Why a job failed."""

    code: Annotated[str, Field(max_length=100)]
    message: str
    step: _Count | None = None


class JobProgress(Line):
    """The last progress of a job."""

    epoch: _Count
    step: _Count
    images_per_s: FiniteFloat | None = None
    train_loss: FiniteFloat | None = None
    evaluations: _Count = 0
    eval_images_per_s: FiniteFloat | None = None
    time: Annotated[str, Field(max_length=50)] | None = None


def _complete(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a spec with all defaults, as the service stores it."""
    return TrainingSpec.model_validate(spec).model_dump(mode="json")


class JobLine(Line):
    """A job that has ended. The summary of its metrics is not in it: it follows from them."""

    id: _Id
    name: str
    notes: str = ""
    spec: Annotated[dict[str, Any], AfterValidator(_complete)]
    precision: Precision | None = None
    labels: dict[str, str]
    priority: _Priority
    max_retries: Annotated[int, Field(ge=0, le=20)]
    cell: Annotated[str, Field(max_length=100)] | None
    retry_of: _Id | None
    status: Status
    error: JobError | None
    attempt_id: _Id | None
    attempts: _Count
    failures: _Count
    losses: _Count
    progress: JobProgress | None
    created_at: _Time
    updated_at: _Time
    queued_at: _Time
    started_at: _Time | None
    finished_at: _Time | None

    @model_validator(mode="after")
    def _has_ended_and_could_be_written(self) -> Self:
        if self.status not in TERMINAL:
            raise ValueError(f"job {self.id} is {self.status}: a bundle has jobs that have ended")
        JobRequest.model_validate(self.spec | {"name": self.name, "labels": self.labels})
        JobChange.model_validate({"notes": self.notes})
        return self


class AttemptWorker(Line):
    """A worker of an attempt, and the host name of its node."""

    worker: str
    node: str


class AttemptLine(Line):
    """One run of a job. `workers` has a `worker` and its `node` for each rank."""

    id: _Id
    job_id: _Id
    number: _Count
    workers: Annotated[list[AttemptWorker], Field(min_length=1, max_length=64)]
    device: str | None
    precision: Literal["float32", "bfloat16"] | None
    versions: dict[str, str] | None
    last_seq: _Count
    resumed_from_step: _Count
    cpu_s: Annotated[FiniteFloat, Field(ge=0)] | None = None
    peak_memory_bytes: _Bytes | None = None
    peak_gpu_memory_bytes: _Bytes | None = None
    gpu_utilization: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    started_at: _Time
    ended_at: _Time | None
    outcome: Outcome | Literal["lost"] | None
    reason: str | None

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, data: Any) -> Any:
        if isinstance(data, dict) and "worker" in data:
            data = dict(data)
            first = {"worker": data.pop("worker"), "node": data.pop("node", None)}
            data["workers"] = data.get("workers") or [first]
        return data


def _reported(name: str) -> str:
    """Return the key of a value in a row of metrics, which `worker.metrics` describes."""
    layer, _, metric = name.rpartition("/")
    if metric not in METRICS or METRICS[metric].per_layer != bool(layer) or len(name) > _MAX_KEY:
        raise ValueError("this is not the name of a metric")
    return name


class MetricLine(Line):
    """A row of metrics."""

    job_id: _Id
    attempt_id: _Id
    seq: _Count
    kind: MetricKind
    epoch: _Count
    step: _Count
    time: _Time
    values: dict[Annotated[str, AfterValidator(_reported)], FiniteFloat | bool | None]
    superseded: bool


class StatusData(Line):
    """What a change of a status says."""

    status: Status
    reason: str | None


class EventLine(Line):
    """An event of a job: a change of its status, its start on a worker, or a line of its log."""

    job_id: _Id
    attempt_id: _Id | None
    seq: _Count | None
    type: Literal["status", "started", "log"]
    time: _Time
    data: dict[str, Any]

    @model_validator(mode="after")
    def _says_what_its_type_says(self) -> Self:
        if given := self.data.keys() & {"type", "seq", "time"}:
            raise ValueError(f"data has {min(given)}, which is a field of the event")
        _DATA[self.type].model_validate(self.data)
        return self


_DATA: dict[str, type[BaseModel]] = {"status": StatusData, "started": Started, "log": Log}


class CheckpointLine(Line):
    """A checkpoint. Its files are in the bundle if the export included them."""

    id: _Id
    job_id: _Id
    attempt_id: _Id
    epoch: _Count
    step: _Count
    metrics: dict[str, FiniteFloat | None]
    files: dict[str, File]
    created_at: _Time


class Manifest(Line):
    """The contents of a bundle, and the version that wrote it."""

    format: int
    experiment_id: str
    created_at: _Time
    versions: dict[str, str]
    files: dict[str, File]
