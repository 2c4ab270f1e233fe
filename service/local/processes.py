"""Child processes that start again when they die, and leave nothing behind when they are stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import SecretStr

from service.local.home import Process, State
from service.settings import PREFIX, Settings

MARK = "NORMLAB_SUPERVISOR"
STEADY_S = 10.0
"""A child that ran for so long had started well: its next death is a first one again."""
DEATHS_AT_ONCE = 5
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
KEPT_LOGS = 3
SOURCE = Path(__file__).parents[2]

# Has the system end the child when its supervisor dies, and then becomes the child. In a process of its own because
# nothing may run between fork and exec of a process with threads.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Child:
    """One supervised process, in a session of its own, its output in a log file.

    `command` and `environment` are asked anew at every start.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        environment: Callable[[], Mapping[str, str]],
        log: Path,
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._popen: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._deaths = 0
        self.start_at = 0.0
        """When it is to start (time.monotonic), while it does not run."""
        rotate(log)

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._popen.pid if self._popen else None

    @property
    def hopeless(self) -> bool:
        """Whether it died so often right after its start that another one is no use."""
        return self._deaths >= DEATHS_AT_ONCE

    def start(self) -> Process:
        """Start it now."""
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *self._command()],
                env=dict(self._environment()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started = time.monotonic()
        return Process.of(self._popen.pid)

    def died(self) -> str | None:
        """How it ended, if it ran and does no more; the next start is then set."""
        if self._popen is None or (code := self._popen.poll()) is None:
            return None
        kill_session(self._popen.pid)
        self._popen = None
        self._deaths = 1 if time.monotonic() - self._started > STEADY_S else self._deaths + 1
        self.start_at = time.monotonic() + min(FIRST_PAUSE_S * 2 ** (self._deaths - 1), LONGEST_PAUSE_S)
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        if self._popen is not None:
            with contextlib.suppress(ProcessLookupError):
                self._popen.terminate()

    def kill(self) -> None:
        """Send SIGKILL: it counts as dead once it is."""
        if self._popen is not None:
            self._popen.kill()

    def stop(self, patience_s: float) -> None:
        """End it: SIGTERM, and SIGKILL for all that is left of its session after `patience_s` seconds."""
        if self._popen is None:
            return
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(patience_s)
        kill_session(self._popen.pid)
        self._popen.wait()
        self._popen = None

    def last_words(self, lines: int = 8) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""


def child_environment(settings: Settings) -> dict[str, str]:
    """What a child is told: this process's environment, the settings, and how to find our code."""
    environment = dict(os.environ)
    for name in settings.model_fields_set | {"home"}:
        value = getattr(settings, name)
        if value is not None:
            secret = isinstance(value, SecretStr)
            environment[PREFIX + name.upper()] = value.get_secret_value() if secret else str(value)
    if SOURCE.name != "site-packages":
        environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [environment.get("PYTHONPATH")])])
    return environment | {"PYTHONUNBUFFERED": "1"}


def rotate(log: Path) -> None:
    """Make room for a new log: `x.log` becomes `x.log.1`, and so on."""
    for number in range(KEPT_LOGS - 1, -1, -1):
        old = log.with_name(f"{log.name}.{number}") if number else log
        if old.exists():
            os.replace(old, log.with_name(f"{log.name}.{number + 1}"))


def kill_session(leader: int) -> None:
    """Kill what is left of the session that the child `leader` began."""
    if not Path("/proc/self").exists():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
    while members := [pid for pid in _pids() if _session_of(pid) == leader and Process.of(pid).alive]:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def child_named(parent: int, name: str) -> Process | None:
    """A child of the process `parent` by its name, where there is /proc to find it in."""
    for pid in _pids():
        with contextlib.suppress(OSError):
            command, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
            if command == name and int(rest.split()[1]) == parent:
                return Process.of(pid)
    return None


def end_what_is_left(state: State) -> bool:
    """Kill what the supervisor that wrote `state` started and did not end; says whether there was anything."""
    sessions = {child.pid for child in state.children.values() if child.alive}
    marked = [pid for pid in _pids() if _is_marked(pid, state.mark)]
    sessions |= {session for pid in marked if (session := _session_of(pid)) is not None}
    sessions.discard(os.getsid(0))
    for session in sessions:
        kill_session(session)
    return bool(sessions)


def _pids() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return []


def _session_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def _is_marked(pid: int, mark: str) -> bool:
    with contextlib.suppress(OSError):
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False
