"""Terminate all processes of a test run when the run ends, even if pytest itself was killed.

Every pytest process, including the workers of pytest-xdist, sets a unique variable in its environment, which its child
processes inherit. It also starts a reaper, a process in a separate session that reads from a pipe of which only the
pytest process holds the writing end. The pipe is closed when the pytest process ends for any reason. The reaper then
terminates all processes that have the variable, and all their descendants, daemons included.
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
"""Seconds between SIGTERM, on which PostgreSQL frees its shared memory, and SIGKILL."""
LIMIT_S = 60.0
"""Seconds until the reaper gives up on processes that do not end on SIGKILL."""


def pytest_configure() -> None:
    """Start the reaper of this pytest process."""
    variable = PREFIX + secrets.token_hex(8)
    environment = dict(os.environ)
    os.environ[variable] = "1"
    reading, writing = os.pipe()
    # A child that forks without exec would keep the pipe open.
    os.register_at_fork(after_in_child=lambda: os.close(writing))
    command = [sys.executable, "-I", __file__, variable]
    os.posix_spawn(sys.executable, command, environment, file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)], setsid=True)
    os.close(reading)


def marked(variable: str, known: Iterable[psutil.Process] = ()) -> set[psutil.Process]:
    """Return the processes that have `variable` in their environment or are in `known`, with their descendants.

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
    """Terminate all processes that `marked` finds: SIGTERM, then SIGKILL after `GRACE_S` seconds."""
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
