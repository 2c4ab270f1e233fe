"""Processes of a node, identified beyond the reuse of their ids, and ended whether they respond or not."""

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TITLE = b"ray::TrainingWorker"
"""Ray gives the process of an actor of this class a command line that begins with these bytes."""


@dataclass(frozen=True)
class ProcessId:
    """A process.

    Attributes:
        pid: Its process id.
        started: Its start time in clock ticks since the boot, because ids are reused; empty if that is not known.
    """

    pid: int
    started: str = ""

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """The process that has this id now."""
        stat = _stat(pid)
        return cls(pid, stat[19] if stat else "")


def machine() -> str:
    """What identifies the machine, its boot and the namespace in which process ids are valid."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def end(processes: Sequence[ProcessId]) -> None:
    """Send SIGKILL to processes of this machine and to their children. A stopped process ends, too.

    A process that has another start time than given is another one and is left alone. Without a given start time, a
    process is ended only if it is the actor of a training worker.
    """
    for process in processes:
        if _is(process):
            for pid in (process.pid, *_children(process.pid)):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)


def _is(process: ProcessId) -> bool:
    if process.started:
        return ProcessId.of(process.pid) == process
    with suppress(OSError):
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(TITLE)
    return False


def _children(parent: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(entry.name))
        if stat and int(stat[1]) == parent:
            yield int(entry.name)


def _stat(pid: int) -> Sequence[str]:
    """The fields of proc_pid_stat(5) after the name, from the state on; empty if the process does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ()
    return () if fields[0] in "ZX" else fields
