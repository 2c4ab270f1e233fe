"""What the training process uses during an attempt: CPU time, memory, and memory of the GPU."""

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
        if self._gpu is not None:
            torch.cuda.reset_peak_memory_stats(self._gpu)

    def measure(self) -> Usage:
        """Return the usage until now. Peaks of resident memory between two calls are not seen."""
        self._peak_memory_bytes = max(self._peak_memory_bytes, self._process.memory_info().rss)
        return Usage(
            cpu_s=max(0.0, self._cpu_s() - self._cpu_s_before),
            peak_memory_bytes=self._peak_memory_bytes,
            peak_gpu_memory_bytes=None if self._gpu is None else torch.cuda.max_memory_allocated(self._gpu),
        )

    def complete(self, event: Event) -> Event:
        """Return a `Progress` or `Finished` event with the usage, and any other event as it is."""
        if isinstance(event, Progress | Finished):
            return event.model_copy(update={"usage": self.measure()})
        return event

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
