"""Cost estimates of jobs, from the speeds of similar jobs; of models that have not been trained yet, nominal ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from service.experiments.runs import Speed
from worker.spec import TrainingSpec

FORWARD_SPEEDUP = 3.0
"""Speed of an evaluation relative to the training, if none was measured: a backward pass costs two forward passes."""


NOMINAL_SPEEDS = (
    Speed("resnet20", 2, "cpu", 100),
    Speed("resnet20", 32, "cpu", 200),
    Speed("resnet56", 2, "cpu", 40),
    Speed("resnet56", 32, "cpu", 80),
    Speed("resnet18", 2, "cpu", 10),
    Speed("resnet18", 32, "cpu", 25),
    Speed("vgg", 2, "cpu", 12),
    Speed("vgg", 32, "cpu", 40),
)
"""The speeds of models that have not been trained yet: 29 to 50 % of those that `worker.training.comparison`
measured with `group` in float32 on one core of an AMD EPYC (Zen 5), so that a slow machine is not promised too much."""


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of jobs in seconds, with their evaluations and without the start of each attempt."""

    job_s: tuple[float, ...]
    """Of each job."""
    device_s: float
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


def expected_seconds(specs: Sequence[TrainingSpec], speeds: Sequence[Speed]) -> list[float | None]:
    """Return the expected seconds of each training run, None if no job with its model is known.

    Of `speeds`, those on the kind of device of the newest count, which is the first.
    """
    alike = _on_newest_kind(speeds)
    expected = [expected_speed(spec, alike) for spec in specs]
    return [None if known is None else seconds_left(spec, *known) for spec, known in zip(specs, expected, strict=True)]


def estimate(specs: Sequence[TrainingSpec], speeds: Sequence[Speed], slots: int | None) -> Estimate:
    """Estimate the cost of training runs, by the speeds that were measured, or else by nominal ones.

    `slots` is the number of workers that train at once, None if it is unknown.
    """
    measured, nominal = expected_seconds(specs, speeds), expected_seconds(specs, NOMINAL_SPEEDS)
    job_s = []
    for known, assumed in zip(measured, nominal, strict=True):
        assert assumed is not None
        job_s.append(assumed if known is None else known)
    total = sum(seconds * spec.num_workers for seconds, spec in zip(job_s, specs, strict=True))
    elapsed = max(total / slots, max(job_s, default=0.0)) if slots else None
    unknown = sorted({spec.model for spec, known in zip(specs, measured, strict=True) if known is None})
    return Estimate(tuple(job_s), total, elapsed, _basis(_on_newest_kind(speeds), unknown))


def _on_newest_kind(speeds: Sequence[Speed]) -> Sequence[Speed]:
    return [speed for speed in speeds if device_kind(speed.device) == device_kind(speeds[0].device)]


def _basis(speeds: Sequence[Speed], unknown: Sequence[str]) -> str:
    nominal = (
        f"Estimated from a nominal speed of one CPU core, because {' and '.join(unknown)} "
        f"{'have' if len(unknown) > 1 else 'has'} not been trained here yet."
    )
    if not speeds:
        return nominal
    kind = device_kind(speeds[0].device)
    measured = f"Based on the speed of {len(speeds)} jobs on {kind}, with the same model at the nearest batch size."
    return f"{measured} {nominal}" if unknown else measured
