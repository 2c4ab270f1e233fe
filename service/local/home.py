"""NORMLAB_HOME, which one supervisor uses at a time.

A supervisor locks it and records the processes it starts. After a kill, the next supervisor ends the processes that are
left; the command line reads the address of the service from the record.
"""

import fcntl
import json
import os
import secrets
import stat
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from worker.folders import make_folder

STATE = "supervisor.json"
LOCK = "supervisor.lock"


class InUse(Exception):
    """Another supervisor uses this home."""


@dataclass
class Process:
    """A process, identified by its id and its start time, because ids are reused."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has this id now."""
        return cls(pid, _start_of(pid) or "")

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.started != "" and _start_of(self.pid) == self.started


@dataclass
class State:
    """The processes that a supervisor has started, and the address of its service."""

    supervisor: Process
    url: str
    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    """The value of an environment variable of all processes that it started, directly or not."""
    children: dict[str, Process] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    """Temporary folders to remove at the end."""


class Home:
    """A context that holds the lock on a home. Entering it raises `InUse` if another supervisor holds the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.left_behind: State | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        make_folder(self.logs)
        lock = (self.path / LOCK).open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            state = read_state(self.path)
            where = f" and listens on {state.url}" if state else ""
            raise InUse(f"A service already runs in {self.path}{where}. Use it, or give another --home.") from error
        self._lock = lock
        self.left_behind = read_state(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        (self.path / STATE).unlink(missing_ok=True)
        assert self._lock is not None
        self._lock.close()

    @property
    def notice(self) -> str | None:
        """A warning if other users of the machine can enter the home; else None."""
        mode = stat.S_IMODE(self.path.stat().st_mode)
        if mode & 0o077 == 0:
            return None
        return f"{self.path} has the mode {mode:o}, which admits other users of this machine: chmod 700 closes it"

    def write(self, state: State) -> None:
        """Store the state, atomically."""
        scratch = self.path / (STATE + ".new")
        scratch.write_text(json.dumps(asdict(state), indent=1))
        os.replace(scratch, self.path / STATE)


def read_state(home: Path) -> State | None:
    """The stored state of the supervisor of `home`, or None. The supervisor may have ended since."""
    try:
        document = json.loads((home / STATE).read_text())
        return State(
            supervisor=Process(**document["supervisor"]),
            url=document["url"],
            mark=document["mark"],
            children={name: Process(**child) for name, child in document["children"].items()},
            folders=document["folders"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def address_of(home: Path) -> str | None:
    """The address of the service that runs in `home`, or None."""
    state = read_state(home)
    return state.url if state and state.supervisor.alive else None


def address_of_this_machine() -> str | None:
    """The address of the service that runs in the home of this user, or None."""
    from service.settings import Settings, expanded

    try:
        return address_of(expanded(Path(os.environ.get("NORMLAB_HOME") or Settings.model_fields["home"].default)))
    except ValueError:
        return None


def _start_of(pid: int) -> str | None:
    """The start time of a process, in a form that depends on the system; None if it does not run, or is a zombie.

    Not by psutil: its start times shift when the clock is set, and these are compared after days.
    """
    try:
        # Fields of proc_pid_stat(5) after the name, which may contain parentheses and spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    else:
        return None if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip() or None
