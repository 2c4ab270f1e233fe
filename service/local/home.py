"""HOME, and the one supervisor that may work there.

A supervisor holds a lock on HOME and writes down which processes it started, so that the next one can end what a killed
predecessor left behind, and so that the command line finds the service.
"""

import fcntl
import json
import os
import secrets
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

STATE = "supervisor.json"
LOCK = "supervisor.lock"


class InUse(Exception):
    """Another supervisor works in this HOME."""


@dataclass
class Process:
    """A process, told from a later one with the same id by when it started."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that has this id now."""
        return cls(pid, _start_of(pid) or "")

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.started != "" and _start_of(self.pid) == self.started


@dataclass
class State:
    """What a supervisor has started, and where its service listens."""

    supervisor: Process
    url: str
    mark: str = field(default_factory=lambda: secrets.token_hex(16))
    """Stands in the environment of everything it started, and of what that started."""
    children: dict[str, Process] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    """Temporary folders to be removed."""


class Home:
    """A context in which HOME is ours alone. Raises `InUse`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.left_behind: State | None = None
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
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

    def write(self, state: State) -> None:
        """Keep `state` for whoever comes next."""
        scratch = self.path / (STATE + ".new")
        scratch.write_text(json.dumps(asdict(state), indent=1))
        os.replace(scratch, self.path / STATE)


def read_state(home: Path) -> State | None:
    """What the supervisor of `home` last wrote, whether or not it still runs."""
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
    """Where the service of `home` listens, if one runs."""
    state = read_state(home)
    return state.url if state and state.supervisor.alive else None


def address_of_this_machine() -> str | None:
    """Where the service of this user's HOME listens, if one runs."""
    from service.settings import Settings

    home = os.environ.get("NORMLAB_HOME") or Settings.model_fields["home"].default
    return address_of(Path(home).expanduser())


def _start_of(pid: int) -> str | None:
    """When the process started, in whatever form the system tells; None when there is none, or it is a zombie."""
    try:
        # The name in parentheses may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    else:
        return None if fields[0] in "ZX" else fields[19]
    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip() or None
