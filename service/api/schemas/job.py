"""The JSON of jobs, attempts and checkpoints, as clients see it."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from service.api.http.prefix import link
from service.cluster_report import ClusterReport
from service.experiments import axes, costs
from service.experiments.runs import is_tested
from service.experiments.titles import job_title
from service.jobs import ACTIVE, Status
from service.store import Session, checkpoints, events, jobs, leases
from service.store.tables import Attempt, Checkpoint, Event, Job
from worker.events import Precision
from worker.metrics import OutcomeMetric, default_outcome
from worker.spec import TrainingSpec


class AsTrainingSpec:
    """The schema of a stored spec, which is not validated again, so that specs of older releases stay readable."""

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(TrainingSpec.__pydantic_core_schema__)


class ErrorView(BaseModel):
    """Why a job failed."""

    code: str = Field(description="diverged, out_of_memory, dataset, checkpoint, invalid, exception or lost")
    message: str
    step: int | None = Field(default=None, description="optimizer step of the error; null before the training")


class ProgressView(BaseModel):
    """The progress of a training."""

    epoch: int = Field(description="the epoch in progress, from 1")
    epochs: int | None = Field(description="total number of epochs")
    step: int = Field(description="optimizer steps completed")
    total_steps: int | None = Field(description="total number of optimizer steps")
    images_per_s: float | None
    train_loss: float | None = Field(description="loss of the latest step")
    eta_s: float | None = Field(
        description="seconds left at the current speed, with evaluations; null while the job does not run"
    )


class MetricSummary(BaseModel):
    """The best and the last value of one metric. `GET /v1/specification` says how the best epoch is chosen."""

    best: float
    best_step: int
    selected: float | None = Field(
        default=None,
        description="value on the holdout, for a metric of the test images of a job with a holdout: `best` is at the "
        "epoch at which it was lowest",
    )
    last: float
    last_step: int
    last_5: list[float] | None = Field(default=None, description="the last five evaluations, oldest first")


class AttemptWorkerView(BaseModel):
    """A worker of an attempt."""

    worker: str
    node: str = Field(description="host name of its node")


class AttemptView(BaseModel):
    """One run of a job on one or more workers."""

    id: str
    number: int = Field(description="from 1")
    outcome: str | None = Field(description="succeeded, failed, paused, cancelled or lost; null while it runs")
    reason: str | None
    workers: list[AttemptWorkerView] = Field(description="in the order of their ranks; rank 0 reports")
    device: str | None
    versions: dict[str, Any] | None
    started_at: datetime
    ended_at: datetime | None
    resumed_from_step: int
    cpu_s: float | None = Field(
        description="CPU time of the training process of rank 0, user and system, in seconds; null until it reports"
    )
    peak_memory_bytes: int | None = Field(
        description="largest resident memory of this process, sampled about once a second, in bytes"
    )
    peak_gpu_memory_bytes: int | None = Field(
        description="largest memory of tensors of this process on its GPU, in bytes; null on a CPU"
    )
    gpu_utilization: float | None = Field(
        description="fraction of the time in which its GPU computed, for any process, sampled about once a second; "
        "null on a CPU, and where NVML does not say it"
    )


class StatusChange(BaseModel):
    """A change of the status of a job."""

    status: Status
    time: datetime
    reason: str | None


class JobLinks(BaseModel):
    """Paths of resources that belong to a job."""

    self: str
    metrics: str
    logs: str
    events: str
    checkpoints: str


class JobView(BaseModel):
    """A job."""

    id: str
    name: str
    title: str = Field(description="display title: the name, or a description of the training")
    notes: str
    status: Status
    normalization: str = Field(description="normalization with all parameters that differ from their defaults")
    metric: OutcomeMetric = Field(
        description="its outcome metric: the error on the test images, or, without any, on the holdout"
    )
    spec: Annotated[dict[str, Any], AsTrainingSpec()] = Field(description="complete spec, with all defaults")
    precision: Precision | None = Field(
        description="format of its activations in every attempt; null until the precision `auto` of the spec is "
        "resolved, when its first attempt starts"
    )
    labels: dict[str, str]
    priority: int
    max_retries: int
    submitted_by: str | None = Field(
        description="name of the token that submitted it; null without tokens, and if it was imported"
    )
    created_at: datetime
    updated_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_s: float = Field(description="seconds that its attempts have run, without the time queued or paused")
    error: ErrorView | None
    progress: ProgressView | None
    summary: dict[str, MetricSummary]
    retry_of: str | None
    extends: str | None = Field(description="the job whose training it continues for more epochs")
    experiment: str | None
    links: JobLinks


class JobDetail(JobView):
    """A job, its attempts and its history."""

    waits_for: str | None = Field(description="reason why a queued job does not start yet, if it is not the queue")
    attempts: list[AttemptView]
    history: list[StatusChange]


class FileView(BaseModel):
    """One file of a checkpoint."""

    name: str
    size: int = Field(description="bytes")
    sha256: str
    url: str


class CheckpointView(BaseModel):
    """The state of a training at one step."""

    id: str
    job: str
    attempt: str
    epoch: int = Field(description="epochs completed")
    step: int
    metrics: dict[str, float | None] = Field(description="evaluation of these weights; empty in the middle of an epoch")
    created_at: datetime
    best: bool = Field(
        description="whether it has the lowest error of its job on the holdout, without one on the test images"
    )
    files: list[FileView]


def job_url(job_id: str) -> str:
    """Return the path of a job."""
    return link(f"/v1/jobs/{job_id}")


def progress_of(job: Job) -> ProgressView | None:
    """Return the progress of a job, None before its first report."""
    reported = job.progress
    if reported is None:
        return None
    try:
        spec = TrainingSpec.model_validate(job.spec)
    except ValidationError:
        spec = None
    speed = reported.get("images_per_s")
    eta_s = None
    if spec and speed and math.isfinite(speed) and job.status in ACTIVE:
        done = {"step": reported["step"], "evaluations": reported.get("evaluations", 0)}
        eta_s = costs.seconds_left(spec, speed, reported.get("eval_images_per_s"), **done)
    return ProgressView(
        epoch=reported["epoch"],
        epochs=spec.epochs if spec else None,
        step=reported["step"],
        total_steps=spec.total_steps if spec else None,
        images_per_s=speed,
        train_loss=reported.get("train_loss"),
        eta_s=eta_s,
    )


def job_fields(job: Job, labels: dict[str, str], duration_s: float) -> dict[str, Any]:
    """Return the fields of a `JobView`."""
    url = job_url(job.id)
    return {
        "id": job.id,
        "name": job.name,
        "title": job_title(job.name, job.spec),
        "notes": job.notes,
        "status": job.status,
        "normalization": axes.label("normalization", axes.read(job.spec, "normalization")),
        "metric": default_outcome(tested=is_tested(job.spec, job.summary)),
        "spec": job.spec,
        "precision": job.precision,
        "labels": labels,
        "priority": job.priority,
        "max_retries": job.max_retries,
        "submitted_by": job.submitted_by,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "duration_s": duration_s,
        "error": job.error,
        "progress": progress_of(job),
        "summary": job.summary,
        "retry_of": job.retry_of,
        "extends": job.extends,
        "experiment": job.experiment_id,
        "links": {
            "self": url,
            **{noun: f"{url}/{noun}" for noun in ("metrics", "logs", "events", "checkpoints")},
        },
    }


async def job_views(session: Session, found: Sequence[Job]) -> list[JobView]:
    """Return the views of several jobs, without attempts and history."""
    ids = [job.id for job in found]
    labels, durations = await jobs.labels(session, ids), await jobs.durations_s(session, ids)
    return [JobView(**job_fields(job, labels.get(job.id, {}), durations.get(job.id, 0.0))) for job in found]


async def job_detail(session: Session, job: Job) -> JobDetail:
    """Return one job with its attempts and its history."""
    labels, durations = await jobs.labels(session, [job.id]), await jobs.durations_s(session, [job.id])
    return JobDetail(
        **job_fields(job, labels.get(job.id, {}), durations.get(job.id, 0.0)),
        waits_for=await _waits_for(session, job),
        attempts=[_attempt_view(attempt) for attempt in await jobs.attempts(session, job.id)],
        history=[_status_change(event) for event in await events.of_type(session, job.id, "status")],
    )


async def checkpoint_views(session: Session, job_id: str) -> list[CheckpointView]:
    """The checkpoints of a job, newest first."""
    found = await checkpoints.of_job(session, job_id)
    best = checkpoints.best(found)
    return [checkpoint_view(checkpoint, best=checkpoint is best) for checkpoint in found]


def checkpoint_view(checkpoint: Checkpoint, *, best: bool) -> CheckpointView:
    """One checkpoint."""
    return CheckpointView(
        id=checkpoint.id,
        job=checkpoint.job_id,
        attempt=checkpoint.attempt_id,
        epoch=checkpoint.epoch,
        step=checkpoint.step,
        metrics=checkpoint.metrics,
        created_at=checkpoint.created_at,
        best=best,
        files=[
            FileView(name=name, url=link(f"/v1/checkpoints/{checkpoint.id}/files/{name}"), **file)
            for name, file in sorted(checkpoint.files.items())
        ],
    )


async def _waits_for(session: Session, job: Job) -> str | None:
    if job.status is not Status.QUEUED:
        return None
    lease = await leases.get(session, "dispatcher")
    report = ClusterReport.read(lease.report if lease else None)
    if report is None:
        return None
    if report.slots.problem is not None:
        return report.slots.problem
    if (full := report.full(job.submitted_by)) is not None:
        return (
            f"{full.name} has {full.running} jobs that run, and the limit of this name is {full.limit} "
            "(NORMLAB_QUOTAS). The job can start once one of them has ended. Jobs of others do not wait for it."
        )
    if job.num_workers == 1:
        return None
    if job.num_workers > (slots := report.slots.total):
        return (
            f"The job needs {job.num_workers} workers, and the cluster has room for {slots}. "
            "It starts once the cluster has enough room. Other jobs do not wait for it."
        )
    if report.next_up is not None and report.next_up.job == job.id:
        return f"The job is next and starts once {job.num_workers} workers are free. Other jobs start after it."
    return None


def _attempt_view(attempt: Attempt) -> AttemptView:
    return AttemptView(
        id=attempt.id,
        number=attempt.number,
        outcome=attempt.outcome,
        reason=attempt.reason,
        workers=[AttemptWorkerView.model_validate(worker) for worker in attempt.workers],
        device=attempt.device,
        versions=attempt.versions,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        resumed_from_step=attempt.resumed_from_step,
        cpu_s=attempt.cpu_s,
        peak_memory_bytes=attempt.peak_memory_bytes,
        peak_gpu_memory_bytes=attempt.peak_gpu_memory_bytes,
        gpu_utilization=attempt.gpu_utilization,
    )


def _status_change(event: Event) -> StatusChange:
    return StatusChange(status=event.data["status"], time=event.time, reason=event.data.get("reason"))
