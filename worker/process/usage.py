"""What the training process uses during an attempt: CPU time and memory, and of the GPU its memory and its time."""

import statistics

import psutil
import torch

from worker.events import Event, Finished, Progress, Usage


class UsageMeter:
    """Measures the usage of this process from its creation, which is the start of an attempt.

    The process keeps torch and datasets in memory between attempts, and its memory includes them.

    Args:
        device: The device of the training. On a GPU, the counter of its peak memory is set back.
    """

    def __init__(self, device: str) -> None:
        self._process = psutil.Process()
        self._gpu = device if device.startswith("cuda") else None
        self._cpu_s_before = self._cpu_s()
        self._peak_memory_bytes = 0
        self._busy: list[float] | None = None if self._gpu is None else []
        """The sampled utilization of the GPU; None where it cannot be read."""
        if self._gpu is not None:
            torch.cuda.reset_peak_memory_stats(self._gpu)

    def measure(self) -> Usage:
        """Return the usage until now. Peaks of resident memory between two calls are not seen."""
        self._peak_memory_bytes = max(self._peak_memory_bytes, self._process.memory_info().rss)
        return Usage(
            cpu_s=max(0.0, self._cpu_s() - self._cpu_s_before),
            peak_memory_bytes=self._peak_memory_bytes,
            peak_gpu_memory_bytes=None if self._gpu is None else torch.cuda.max_memory_allocated(self._gpu),
            gpu_utilization=self._gpu_utilization(),
        )

    def complete(self, event: Event) -> Event:
        """Return a `Progress` or `Finished` event with the usage, and any other event as it is."""
        if isinstance(event, Progress | Finished):
            return event.model_copy(update={"usage": self.measure()})
        return event

    def _gpu_utilization(self) -> float | None:
        if self._busy is None:
            return None
        try:
            self._busy.append(torch.cuda.utilization(self._gpu) / 100)
        except Exception:
            # NVML or its package is missing, the driver refuses, or the device is a part of a GPU (MIG). The errors of
            # NVML share no class that can be imported without its package, and none of them may end a training.
            self._busy = None
            return None
        return statistics.fmean(self._busy)

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
