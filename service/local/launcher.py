"""Becomes a supervised process, after asking the system to end it with its supervisor.

`python launcher.py SUPERVISOR PROGRAM [ARGUMENT ...]`, with the process id of the supervisor. It is a separate
program because no code may run between fork and exec in a process that has threads. It runs at every start of a child,
so it imports the standard library only.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent ends."""


def launch(supervisor: int, command: list[str]) -> None:
    """Replace this process by `command`, unless the supervisor has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:
            # The supervisor ended before prctl was called.
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    launch(int(sys.argv[1]), sys.argv[2:])
