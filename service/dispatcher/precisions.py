"""What the precision `auto` means: by the devices of all workers, and on CPUs with bfloat16 by a measurement on one."""

import time
from collections.abc import Mapping

from service.cluster_report import StepReport
from service.dispatcher.cluster import Worker
from service.dispatcher.pool import Pool
from service.experiments.precision import Resolution, Workload, by_device, by_speed
from worker.events import Precision

LIMIT_S = 20.0
"""No further workload is measured after this time; those that were stand for the others."""


class Precisions:
    """Resolves the precision `auto`, and remembers the training steps that were measured for it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._steps: dict[Workload, Mapping[Precision, float]] = {}

    def known(self) -> Precision | None:
        """What `auto` means on the workers of the pool; None if it depends on the speed."""
        resolution = by_device(self._pool.devices())
        return resolution.precision if resolution else None

    async def measure(self, jobs: Mapping[Workload, int], worker: Worker) -> Resolution:
        """Resolve `auto` for jobs by the duration of their training steps on a worker without an attempt.

        Args:
            jobs: The number of jobs of each workload, at least one.
            worker: The worker. It measures each workload once.

        Raises:
            WorkerGone: If the worker ended or does not answer.
        """
        began = time.monotonic()
        steps: dict[Workload, Mapping[Precision, float]] = {}
        for workload in jobs:
            if steps and time.monotonic() - began > LIMIT_S:
                break
            steps[workload] = await worker.compare_precisions(*workload)
        self._steps |= steps
        return by_speed(jobs, steps)

    def report(self) -> list[StepReport]:
        """The latest measurement of each workload."""
        return [
            StepReport(model=model, batch_size=batch_size, float32_s=seconds["float32"], bfloat16_s=seconds["bfloat16"])
            for (model, batch_size), seconds in self._steps.items()
        ]
