"""Processes that a signal has stopped (SIGSTOP). Unlike slow ones, they do not continue by themselves."""

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psutil import Process

STOPPED_S = 5.0
"""A process that has been stopped for this time is given up."""
LONGEST_PAUSE_S = 3.0
"""A longer pause between two looks was one of the process that looks, and counts as this time."""


class StopWatch:
    """Measures for how long a process has been stopped.

    Args:
        pid: Its process id.
        clock: The seconds of a monotonic clock.
    """

    def __init__(self, pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._pid = pid
        self._clock = clock
        self._looked_at: float | None = None
        """When it was found to be stopped; None while it is not."""
        self._stopped_s = 0.0

    def is_given_up(self) -> bool:
        """Look at the process. Returns whether all looks for `STOPPED_S` have found it stopped."""
        now = self._clock()
        if not self._is_stopped():
            self._looked_at, self._stopped_s = None, 0.0
            return False
        if self._looked_at is not None:
            self._stopped_s += min(now - self._looked_at, LONGEST_PAUSE_S)
        self._looked_at = now
        return self._stopped_s >= STOPPED_S

    def _is_stopped(self) -> bool:
        # Here, as benchmarks of the worker run where psutil is not installed.
        import psutil

        try:
            # Not STATUS_TRACING_STOP: a debugger holds that process, and will let it continue.
            return bool(self._process.status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            return False

    @cached_property
    def _process(self) -> "Process":
        import psutil

        return psutil.Process(self._pid)
