"""What jobs will cost, by how fast like jobs trained."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from service.experiments.runs import Speed
from worker.spec import TrainingSpec


@dataclass(frozen=True)
class Estimate:
    """What jobs will cost. Seconds of training; evaluation and the start of each attempt come on top."""

    job_s: tuple[float | None, ...]
    """Of each job; None where nothing like it ever ran."""
    device_s: float | None
    """Of all jobs on all their workers together."""
    elapsed_s: float | None
    """From the first to the last, on as many slots as there are."""
    basis: str
    """A sentence on what this stands on."""


def device_kind(device: str) -> str:
    """`cuda:0 (NVIDIA H200)` without its number: jobs on two such devices are alike."""
    named = re.fullmatch(r"\w+(?::\d+)? \((.*)\)", device)
    return named[1] if named else device


def images_trained(spec: TrainingSpec) -> int:
    """Images in the whole training, each counted every time it is seen."""
    return spec.total_steps * spec.global_batch_size


def images_per_s(spec: TrainingSpec, speeds: Sequence[Speed]) -> float | None:
    """The median speed, by worker, of the jobs on the same model whose batch size is nearest, as a ratio, times the
    workers; None without any such job."""
    alike = [speed for speed in speeds if speed.model == spec.model]
    if not alike:
        return None

    def distance(batch_size: int) -> float:
        return max(batch_size, spec.batch_size) / min(batch_size, spec.batch_size)

    nearest = min((speed.batch_size for speed in alike), key=distance)
    return spec.num_workers * median(speed.images_per_s for speed in alike if speed.batch_size == nearest)


def estimate(specs: Sequence[TrainingSpec], speeds: Sequence[Speed], slots: int | None) -> Estimate:
    """What these trainings will cost on the kind of device that the newest of `speeds` was measured on.

    `slots` is how many workers train at once, None where that is not known.
    """
    if not speeds:
        basis = "Nothing on these models has been trained here yet, so nothing is known of their speed."
        return Estimate((None,) * len(specs), None, None, basis)
    kind = device_kind(speeds[0].device)
    alike = [speed for speed in speeds if device_kind(speed.device) == kind]
    job_s = []
    for spec in specs:
        speed = images_per_s(spec, alike)
        job_s.append(None if speed is None else images_trained(spec) / speed)
    known = [seconds for seconds in job_s if seconds is not None]
    basis = f"From the speed of {len(alike)} jobs on {kind}: of the same model, at the nearest batch size."
    if len(known) < len(job_s):
        unknown = ", ".join(sorted({spec.model for spec, s in zip(specs, job_s, strict=True) if s is None}))
        basis += f" Nothing on {unknown} has been trained there yet, so there is no sum."
        return Estimate(tuple(job_s), None, None, basis)
    total = sum(seconds * spec.num_workers for seconds, spec in zip(known, specs, strict=True))
    elapsed = max(total / slots, max(known, default=0.0)) if slots else None
    return Estimate(tuple(job_s), total, elapsed, basis)
