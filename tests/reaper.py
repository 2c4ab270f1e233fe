"""Ends what a test run started when the run is over, even if pytest itself was killed.

Every pytest process, workers of pytest-xdist included, sets a variable of its own in its environment; whatever it
starts inherits the variable. It also starts a reaper, a process in a session of its own that reads from a pipe which
only the pytest process can write to. The pipe reaches its end when the pytest process is gone, for whatever reason.
The reaper then ends all processes with the variable and all descendants of these, daemons included.
"""

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Iterable

import psutil

PREFIX = "PYTEST_RUN_"
GRACE_S = 5.0
"""From SIGTERM, on which PostgreSQL frees its shared memory, to SIGKILL."""
LIMIT_S = 60.0
"""Until the reaper gives up on processes that not even SIGKILL ends."""


def pytest_configure() -> None:
    """Start the reaper of this pytest process."""
    variable = PREFIX + secrets.token_hex(8)
    environment = dict(os.environ)
    os.environ[variable] = "1"
    reading, writing = os.pipe()
    # A child that is forked without an exec would hold the pipe open.
    os.register_at_fork(after_in_child=lambda: os.close(writing))
    command = [sys.executable, "-I", __file__, variable]
    os.posix_spawn(sys.executable, command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)], setsid=True)
    os.close(reading)


def marked(variable: str, known: Iterable[psutil.Process] = ()) -> set[psutil.Process]:
    """Processes that have `variable` in their environment or are in `known`, and the descendants of these.

    PostgreSQL's and Ray's workers overwrite the memory that holds their environment. They are found as descendants.
    """
    processes = [
        process
        for process in psutil.process_iter(["environ", "ppid", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
    ]
    known = set(known)
    found = {process for process in processes if process in known or variable in (process.info["environ"] or ())}
    while children := {p for p in processes if p.info["ppid"] in {parent.pid for parent in found}} - found:
        found |= children
    return found


def end(variable: str) -> None:
    """End all that `marked` finds: SIGTERM, and SIGKILL after `GRACE_S` seconds."""
    deadline = time.monotonic() + LIMIT_S
    found = marked(variable)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(found, timeout=GRACE_S)
    while (found := marked(variable, known=found)) and time.monotonic() < deadline:
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=GRACE_S)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1])
