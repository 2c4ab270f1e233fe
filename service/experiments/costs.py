"""Cost estimates of jobs, from the speeds of similar jobs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from service.experiments.runs import Speed
from worker.spec import TrainingSpec

FORWARD_SPEEDUP = 3.0
"""Speed of an evaluation relative to the training, if none was measured: a backward pass costs two forward passes."""


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of jobs in seconds, with their evaluations and without the start of each attempt."""

    job_s: tuple[float | None, ...]
    """Of each job; None if no similar job ever ran."""
    device_s: float | None
    """Of all jobs on all their workers together."""
    elapsed_s: float | None
    """From the start of the first to the end of the last, on the given number of slots."""
    basis: str
    """A sentence on the basis of the estimate."""


def device_kind(device: str) -> str:
    """Return a device without its index, so that `cuda:0 (NVIDIA H200)` equals `cuda:1 (NVIDIA H200)`."""
    named = re.fullmatch(r"\w+(?::\d+)? \((.*)\)", device)
    return named[1] if named else device


def seconds_left(
    spec: TrainingSpec,
    images_per_s: float,
    eval_images_per_s: float | None = None,
    *,
    step: int = 0,
    evaluations: int = 0,
) -> float:
    """Return the seconds that a training run still takes, with its evaluations.

    Args:
        spec: The training.
        images_per_s: Its speed, all workers together.
        eval_images_per_s: The speed of its evaluations; None: not measured yet.
        step: Completed optimizer steps.
        evaluations: Completed evaluations, at most one for each completed epoch.
    """
    training = max(0, spec.total_steps - step) * spec.global_batch_size / images_per_s
    evaluations = min(evaluations, step // spec.steps_per_epoch)
    images = max(0, spec.epochs - evaluations) * spec.dataset.num_eval
    return training + images / (eval_images_per_s or FORWARD_SPEEDUP * images_per_s)


def expected_speed(spec: TrainingSpec, speeds: Sequence[Speed]) -> tuple[float, float | None] | None:
    """Return the expected speeds of a training run and of its evaluations, None if no job with its model is known.

    The speed of the training is the number of workers times the median speed per worker of the jobs with the nearest
    batch size, by ratio. Evaluations have batches of one size: their speed is the median of all jobs, None if no job
    has measured it.
    """
    alike = [speed for speed in speeds if speed.model == spec.model]
    if not alike:
        return None

    def distance(batch_size: int) -> float:
        return max(batch_size, spec.batch_size) / min(batch_size, spec.batch_size)

    nearest = min((speed.batch_size for speed in alike), key=distance)
    evaluations = [speed.eval_images_per_s for speed in alike if speed.eval_images_per_s]
    return (
        spec.num_workers * median(speed.images_per_s for speed in alike if speed.batch_size == nearest),
        spec.num_workers * median(evaluations) if evaluations else None,
    )


def estimate(specs: Sequence[TrainingSpec], speeds: Sequence[Speed], slots: int | None) -> Estimate:
    """Estimate the cost of training runs on the kind of device on which the newest of `speeds` was measured.

    `slots` is the number of workers that train at once, None if it is unknown.
    """
    if not speeds:
        basis = "None of these models has been trained here yet, so their speed is unknown."
        return Estimate((None,) * len(specs), None, None, basis)
    kind = device_kind(speeds[0].device)
    alike = [speed for speed in speeds if device_kind(speed.device) == kind]
    job_s = []
    for spec in specs:
        expected = expected_speed(spec, alike)
        job_s.append(None if expected is None else seconds_left(spec, *expected))
    known = [seconds for seconds in job_s if seconds is not None]
    basis = f"Based on the speed of {len(alike)} jobs on {kind}, with the same model at the nearest batch size."
    if len(known) < len(job_s):
        unknown = ", ".join(sorted({spec.model for spec, s in zip(specs, job_s, strict=True) if s is None}))
        basis += f" The speed of {unknown} is unknown, so there is no total."
        return Estimate(tuple(job_s), None, None, basis)
    total = sum(seconds * spec.num_workers for seconds, spec in zip(known, specs, strict=True))
    elapsed = max(total / slots, max(known, default=0.0)) if slots else None
    return Estimate(tuple(job_s), total, elapsed, basis)
