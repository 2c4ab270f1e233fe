"""File descriptors: how many of them connections and event streams may use, and what is logged when none is left.

A stream holds one descriptor for hours. A reserve is kept for other requests, the database and files: streams may use
none of it, and all connections together half of it.
"""

import asyncio
import errno
import logging
import math
import resource
import time
from typing import Any

RESERVE = 256
DEFAULT_STREAMS = 10_000
INCIDENT_S = 60.0

log = logging.getLogger(__name__)


def max_connections() -> int | None:
    """Return the number of connections that the limit of open files has room for; None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else max(2, limit - _reserve(limit) // 2)


def max_streams(wanted: int | None = None) -> int:
    """Return the number of event streams: `wanted`, or as many as the limit of open files has room for, if fewer."""
    wanted = wanted or DEFAULT_STREAMS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, max(1, limit - _reserve(limit)))


def _reserve(limit: int) -> int:
    return min(RESERVE, limit // 2)


class _Incident:
    """A failure that is repeated many times a second. It ends after a minute without a repetition."""

    def __init__(self) -> None:
        self._ends_at = -math.inf

    def begins(self) -> bool:
        """Note a repetition, and return whether it is the first one."""
        now = time.monotonic()
        first = now >= self._ends_at
        self._ends_at = now + INCIDENT_S
        return first


class RefusalsOnce(logging.Filter):
    """Lets one of uvicorn's records about refused connections pass in each incident."""

    def __init__(self) -> None:
        super().__init__()
        self._incident = _Incident()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        return record.msg != "Exceeded concurrency limit." or self._incident.begins()


class LoopErrors:
    """Handles errors of the event loop. A lack of descriptors is logged once in each incident.

    asyncio reports each connection that it cannot accept, up to the length of the queue of connections at once.
    """

    def __init__(self) -> None:
        self._incident = _Incident()

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle one error."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            if self._incident.begins():
                log.error(
                    "no connection can be accepted (%s): raise the limit of open files (ulimit -n)", error.strerror
                )
        elif not ("_start_serving" in str(context.get("message")) and isinstance(error, ValueError)):
            # Not logged: asyncio tries to accept connections again a second later, also after the server has stopped.
            loop.default_exception_handler(context)
