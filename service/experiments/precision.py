"""The precision `auto`: what it means on the workers of this installation, decided once for an experiment or a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.events import Precision

FASTER = 1.2
"""How many times as fast as float32 bfloat16 must be on a CPU. Less can be an error of the measurement."""

Workload = tuple[str, int]
"""A model and the images in a batch of one worker."""


@dataclass(frozen=True)
class Resolution:
    """A precision, and the reason for it, as in "bfloat16, 1.6 times as fast as float32 here"."""

    precision: Precision
    reason: str


def by_device(workers: Sequence[tuple[str, bool]]) -> Resolution | None:
    """Resolve `auto` from the devices of the workers alone, each with whether it computes in bfloat16.

    Returns:
        float32 if one of them does not compute in bfloat16, bfloat16 if all are GPUs that do, and None on CPUs that do,
        where it depends on the speed, and without workers.
    """
    if not all(able for _, able in workers):
        return Resolution("float32", "float32, because not every training worker here computes in bfloat16")
    if workers and all(device != "cpu" for device, _ in workers):
        return Resolution("bfloat16", "bfloat16, in which the GPUs here compute")
    return None


def by_speed(jobs: Mapping[Workload, int], steps: Mapping[Workload, Mapping[Precision, float]]) -> Resolution:
    """Resolve `auto` on CPUs that compute in bfloat16, for all jobs together.

    Args:
        jobs: The number of jobs of each workload. They are assumed to train on equally many images.
        steps: The seconds of a training step in each precision, for at least one of the workloads.
    """
    seconds: dict[Precision, float] = {"float32": 0.0, "bfloat16": 0.0}
    for workload, measured in steps.items():
        for precision in seconds:
            seconds[precision] += jobs[workload] * measured[precision] / workload[1]
    ratio = seconds["float32"] / seconds["bfloat16"]
    if ratio >= FASTER:
        return Resolution("bfloat16", f"bfloat16, {ratio:.1f} times as fast as float32 here")
    return Resolution("float32", f"float32, because bfloat16 is only {ratio:.1f} times as fast here")
