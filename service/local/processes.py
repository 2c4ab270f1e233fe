"""Supervised child processes: they are restarted when they die, and stopped with all their descendants."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import SecretStr

from service.local.home import Process, State
from service.settings import PREFIX, Settings
from worker.stopped import StopWatch

MARK = "NORMLAB_SUPERVISOR"
"""The environment variable that marks the processes of a supervisor."""
STEADY_S = 10.0
"""After a run of this length, the count of early deaths starts again at one."""
MAX_EARLY_DEATHS = 5
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
KEPT_LOGS = 3
SOURCE = Path(__file__).parents[2]
LAUNCHER = Path(__file__).with_name("launcher.py")


class Child:
    """One supervised process, in a separate session, with its output in a log file.

    Args:
        name: Display name.
        command: Called at every start for the program and its arguments.
        environment: Called at every start for the environment.
        log: The file of standard output and standard error. Those of earlier runs are kept.
        has_standby: Whether another process, started with `--standby`, waits to take the place of one that ends: it
            imports its modules, and continues once it reads a line from standard input.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        environment: Callable[[], Mapping[str, str]],
        log: Path,
        *,
        has_standby: bool = False,
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._has_standby = has_standby
        self._popen: subprocess.Popen[bytes] | None = None
        self._standby: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._deaths = 0
        self._stop_watch: StopWatch | None = None
        self.start_at = 0.0
        """When it is to start again, by `time.monotonic`."""
        rotate(log)

    @property
    def pid(self) -> int | None:
        """The process id, or None if it does not run."""
        return self._popen.pid if self._popen else None

    @property
    def keeps_dying(self) -> bool:
        """Whether it died `MAX_EARLY_DEATHS` times in a row soon after its start."""
        return self._deaths >= MAX_EARLY_DEATHS

    def start(self) -> Process:
        """Start it now."""
        self._popen = self._promoted() or self._spawn(stdin=subprocess.DEVNULL)
        self._started = time.monotonic()
        self._stop_watch = StopWatch(self._popen.pid)
        return Process.of(self._popen.pid)

    def prepare_standby(self) -> None:
        """Start the process that waits to take its place, once it runs steadily. One is started for each run."""
        runs = self._popen is not None and time.monotonic() - self._started > STEADY_S
        if runs and self._has_standby and self._standby is None:
            self._standby = self._spawn("--standby", stdin=subprocess.PIPE)

    def _promoted(self) -> "subprocess.Popen[bytes] | None":
        """Let the standby process continue. Returns it, or None if there is none that runs."""
        standby, self._standby = self._standby, None
        if standby is None:
            return None
        assert standby.stdin is not None
        # It may have ended, also after it was found to run.
        with contextlib.suppress(BrokenPipeError), standby.stdin as stdin:
            stdin.write(b"\n")
        return standby if standby.poll() is None else None

    def _spawn(self, *arguments: str, stdin: int) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                # By its path and without site-packages: it starts sooner, whatever import path the environment has.
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *self._command(), *arguments],
                env=dict(self._environment()),
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def died(self) -> str | None:
        """Detect the end of the process, and schedule the next start.

        Returns:
            How it ended, or None if it has not ended since the last call.
        """
        if self._popen is None or (code := self._popen.poll()) is None:
            return None
        kill_session(self._popen.pid)
        self._popen = None
        self._deaths = 1 if time.monotonic() - self._started > STEADY_S else self._deaths + 1
        self.start_at = time.monotonic() + min(FIRST_PAUSE_S * 2 ** (self._deaths - 1), LONGEST_PAUSE_S)
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    @property
    def is_stopped(self) -> bool:
        """Whether it runs and was stopped by a signal, some seconds ago or more."""
        return self._popen is not None and self._stop_watch is not None and self._stop_watch.is_given_up()

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        if self._popen is not None:
            with contextlib.suppress(ProcessLookupError):
                self._popen.terminate()

    def kill(self) -> None:
        """Send SIGKILL. `died` reports it once the process has ended."""
        if self._popen is not None:
            self._popen.kill()

    def stop(self, timeout_s: float) -> None:
        """Send SIGTERM, and after `timeout_s` seconds SIGKILL to all processes left in its session."""
        if self._standby is not None:
            self._standby.kill()
            self._standby.communicate()
            self._standby = None
        if self._popen is None:
            return
        self.ask_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)
        kill_session(self._popen.pid)
        self._popen.wait()
        self._popen = None

    def log_tail(self, lines: int = 8) -> str:
        """The last lines of its log."""
        return tail(self.log, lines)


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of a child: that of this process, the settings, and the import path of this package."""
    environment = dict(os.environ)
    for name in settings.model_fields_set | {"home"}:
        value = getattr(settings, name)
        if value is not None:
            secret = isinstance(value, SecretStr)
            environment[PREFIX + name.upper()] = value.get_secret_value() if secret else str(value)
    if SOURCE.name != "site-packages":
        environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [environment.get("PYTHONPATH")])])
    # pydantic would look for plugins in the metadata of all installed packages, at every start.
    return environment | {"PYTHONUNBUFFERED": "1", "PYDANTIC_DISABLE_PLUGINS": "__all__"}


def tail(log: Path, lines: int) -> str:
    """The last lines of a file; nothing if it cannot be read."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return ""


def rotate(log: Path) -> None:
    """Rename `x.log` to `x.log.1`, `x.log.1` to `x.log.2`, and so on."""
    for number in range(KEPT_LOGS - 1, -1, -1):
        old = log.with_name(f"{log.name}.{number}") if number else log
        if old.exists():
            os.replace(old, log.with_name(f"{log.name}.{number + 1}"))


def kill_session(leader: int) -> None:
    """Kill all processes in the session of the child `leader`."""
    while members := [pid for pid in psutil.pids() if _session_of(pid) == leader and Process.of(pid).alive]:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def child_named(parent: int, name: str) -> Process | None:
    """The child of the process `parent` with this name, or None if there is none."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(parent).children():
            if child.name() == name:
                return Process.of(child.pid)
    return None


def kill_left_behind(state: State) -> bool:
    """Kill all processes that the supervisor of `state` started. Returns whether there were any."""
    sessions = {child.pid for child in state.children.values() if child.alive}
    marked = [pid for pid in psutil.pids() if _is_marked(pid, state.mark)]
    sessions |= {session for pid in marked if (session := _session_of(pid)) is not None}
    sessions.discard(os.getsid(0))
    for session in sessions:
        kill_session(session)
    return bool(sessions)


def _session_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def _is_marked(pid: int, mark: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).environ().get(MARK) == mark)
    return False
