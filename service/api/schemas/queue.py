"""The place of a job in the queue."""

from collections.abc import Sequence

from pydantic import BaseModel, Field, ValidationError

from service.api.schemas.job import progress_of
from service.cluster_report import ClusterReport
from service.experiments import costs
from service.experiments.runs import Speed
from service.store.queue import Queue
from worker.spec import TrainingSpec


class QueuePlace(BaseModel):
    """When a job starts, if no other job is added."""

    position: int | None = Field(description="1 for the next job; null if the job is not queued")
    queued: int = Field(description="number of queued jobs")
    starts_in_s: float | None = Field(
        description="estimate of the seconds until it starts, from the speeds of similar jobs; null if one is unknown, "
        "or if the name that submitted it has reached its limit of running jobs"
    )


def queue_place(queue: Queue, job_id: str, speeds: Sequence[Speed], report: ClusterReport | None) -> QueuePlace:
    """Return the place of a job in the queue."""
    ids = [job.id for job in queue.waiting]
    if job_id not in ids:
        return QueuePlace(position=None, queued=len(ids), starts_in_s=None)
    index = ids.index(job_id)
    return QueuePlace(position=index + 1, queued=len(ids), starts_in_s=_starts_in_s(queue, index, speeds, report))


def _starts_in_s(queue: Queue, index: int, speeds: Sequence[Speed], report: ClusterReport | None) -> float | None:
    """Return the work before a job, divided by the slots; 0 where a slot is free for it."""
    slots = report.slots.total if report else 0
    own = queue.waiting[index]
    ahead = queue.waiting[:index]
    before = sum(job.num_workers for job in ahead) + sum(job.num_workers for job in queue.active)
    if not slots or (report is not None and report.full(own.submitted_by)):
        return None
    if before + own.num_workers <= slots:
        return 0.0
    try:
        stored = [job.spec for job in ahead] + [job.spec for job in queue.active]
        specs = [TrainingSpec.model_validate(spec) for spec in stored]
    except ValidationError:
        return None
    expected = costs.expected_seconds(specs, speeds)
    left = expected[: len(ahead)]
    for job, whole in zip(queue.active, expected[len(ahead) :], strict=True):
        progress = progress_of(job)
        left.append(progress.eta_s if progress and progress.eta_s is not None else whole)
    known = [seconds * spec.num_workers for seconds, spec in zip(left, specs, strict=True) if seconds is not None]
    return sum(known) / slots if len(known) == len(left) else None
