"""The embedded deployment, `normlab up`: a private Ray, the dispatcher and the api as children of one process.

A child that dies or hangs is replaced. All children end with the supervisor, even if it is killed.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from service.client import Client, ClientError
from service.local.hangs import Hangs
from service.local.home import Home, InUse, Process, State
from service.local.private_ray import PrivateRay, free_port
from service.local.processes import MARK, Child, child_environment, kill_left_behind, rotate
from service.open_files import raise_limit
from service.ray_environment import head_environment, ray_environment
from service.settings import PREFIX, Settings, http_url

POLL_S = 0.05
"""Pause between two looks at the children while one of them is to be started."""
STEADY_POLL_S = 0.5
"""The same while all of them run."""
STOP_S = {"api": 8.0, "dispatcher": 10.0, "ray": 5.0}
"""The order in which children are stopped, and the seconds after which each is killed."""
READY_TIMEOUT_S = 120.0
ASK_PAUSE_S = 5.0
"""Pause between two questions to the api whether the children work."""
ASK_TIMEOUT_S = 10.0


class CannotStart(Exception):
    """The service cannot start; the message is the reason."""


class Supervisor:
    """A context in which the service runs: it is started on entry and stopped on exit.

    Args:
        settings: The settings of the service. With port 0 it listens on a free port, which `url` names.
        say: Called with progress messages, also by the thread that supervises the children; must not raise.
    """

    def __init__(self, settings: Settings, say: Callable[[str], object] = lambda line: None) -> None:
        self._settings = settings
        self._say = say
        self._home = Home(settings.home)
        self._state: State
        self._ray = None if settings.ray_address else PrivateRay(settings)
        self._children: dict[str, Child] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._hangs = Hangs()
        self._port = settings.port
        self._started = time.monotonic()
        self._ready: set[str] = set()
        self.error: str | None = None
        """The reason why the service stopped without a request, or None."""

    @property
    def url(self) -> str:
        """The address of the api."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._settings.host, self._settings.host)
        return http_url(host, self._port)

    @property
    def pids(self) -> dict[str, int]:
        """The process id of each running child, by name."""
        return {name: pid for name, child in self._children.items() if (pid := child.pid) is not None}

    @property
    def slots(self) -> int | None:
        """The number of training workers that fit on the private Ray; None with another Ray cluster."""
        return self._ray.slots if self._ray else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the children, without waiting until they are ready. Raises `CannotStart`."""
        self._started = time.monotonic()
        try:
            self._home.__enter__()
        except InUse as error:
            raise CannotStart(str(error)) from error
        except OSError as error:
            raise CannotStart(
                f"NORMLAB_HOME is {self._settings.home}, which cannot be used ({error.strerror}): "
                "set it to a directory that can be written, or give one as --home."
            ) from error
        try:
            for warning in filter(None, (raise_limit(), self._home.notice)):
                self._say(warning)
            self._clean_up_after_kill()
            self._port = self._choose_port()
            self._state = State(Process.of(os.getpid()), self.url)
            self._home.write(self._state)
            self._migrate()
            self._is_ready("database")
            self._children = self._make_children()
        except BaseException:
            self._home.__exit__(None, None, None)
            raise
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, name="supervisor questions", daemon=True).start()

    def stop(self) -> None:
        """Stop the children, within a bounded time. A second call has no effect."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join()
        self._thread = None
        self._home.__exit__(None, None, None)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until submitted jobs will run, and say which part is ready. Raises `CannotStart` after `timeout_s` s."""
        deadline = time.monotonic() + timeout_s
        waiting_for, reason = "api", "the api does not answer"
        with Client(self.url, retry_s=0) as client:
            while time.monotonic() < deadline:
                if self.error:
                    raise CannotStart(self.error)
                if self._ray and "Ray" not in self._ready and self._ray.answers():
                    self._is_ready("Ray")
                try:
                    found = client.ready()
                except ClientError:
                    pass
                else:
                    self._is_ready("API")
                    checks = found["checks"]
                    is_ready = found["status"] == "ready"
                    if is_ready or checks.get("dispatcher", {}).get("ok", False):
                        self._is_ready("dispatcher")
                    if is_ready:
                        self._is_ready("Ray")
                        return
                    reason = " ".join(check["detail"] for check in checks.values())
                    # The api logs why the database does not answer.
                    waiting_for = "dispatcher" if checks.get("database", {}).get("ok", True) else "api"
                self._stopping.wait(POLL_S)
                if self._stopping.is_set():
                    return
        if self._ray and not self._ray.answers():
            waiting_for, reason = "ray", "Ray does not answer"
        raise CannotStart(f"The service was not ready after {timeout_s:.0f} s ({reason}). {self._end_of(waiting_for)}")

    def _is_ready(self, part: str) -> None:
        """Say, once, that a part of the service is ready."""
        if part not in self._ready:
            self._ready.add(part)
            self._say(f"  {part} ready after {time.monotonic() - self._started:.1f} s")

    def wait(self) -> None:
        """Wait until it stops. Raises `CannotStart` if it stopped without a request."""
        thread = self._thread
        while thread is not None and thread.is_alive():
            thread.join(1)
        if self.error:
            raise CannotStart(self.error)

    def _clean_up_after_kill(self) -> None:
        left = self._home.left_behind
        if left is None:
            return
        if kill_left_behind(left):
            self._say("ended the processes of a supervisor that was killed")
        for folder in left.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _choose_port(self) -> int:
        host, port = self._settings.host, self._settings.port
        try:
            return free_port(host, port)
        except OSError as error:
            raise CannotStart(
                f"The API cannot listen on port {port} of {host} ({error.strerror}): choose another port with --port "
                "or NORMLAB_PORT, where 0 selects a free one, or another address of this machine with --host or "
                "NORMLAB_HOST."
            ) from error

    def _migrate(self) -> None:
        log = self._home.logs / "migrate.log"
        rotate(log)
        with log.open("wb") as output:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", "service.store.migrate"],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if ended.returncode:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise CannotStart("\n".join(["The database cannot be migrated:", *lines[-4:]]))

    def _environment(self) -> dict[str, str]:
        return child_environment(self._settings) | {PREFIX + "PORT": str(self._port), MARK: self._state.mark}

    def _ray_environment(self) -> dict[str, str]:
        """The environment of the processes that connect to Ray, with its token."""
        environment = ray_environment(self._environment(), existing=self._ray is None)
        if self._ray is None:
            return environment
        return environment | self._ray.environment() | {PREFIX + "RAY_ADDRESS": self._ray.address}

    def _head_environment(self) -> dict[str, str]:
        return head_environment(self._ray_environment()) | {MARK: self._state.mark}

    def _make_children(self) -> dict[str, Child]:
        def module(name: str) -> Callable[[], list[str]]:
            return lambda: [sys.executable, "-P", "-m", name]

        def child(
            name: str, command: Callable[[], list[str]], environment: Callable[[], dict[str, str]], **options: bool
        ) -> dict[str, Child]:
            return {name: Child(name, command, environment, self._home.logs / f"{name}.log", **options)}

        children = child("ray", self._ray.command, self._head_environment) if self._ray else {}
        children |= child("dispatcher", module("service.dispatcher"), self._ray_environment)
        # Most of the time of its start goes into imports, and clients wait meanwhile.
        return children | child("api", module("service.app"), self._environment, has_standby=True)

    def _run(self) -> None:
        """Supervise the children until the stop.

        This thread starts them, because children end with the thread that started them.
        """
        try:
            while not self._stopping.is_set() and self.error is None:
                for child in self._children.values():
                    self._supervise(child)
                steady = all(child.pid is not None for child in self._children.values())
                self._stopping.wait(STEADY_POLL_S if steady else POLL_S)
        except Exception as error:
            self.error = f"The supervisor failed: {error}"
        finally:
            for name, timeout_s in STOP_S.items():
                if name in self._children:
                    self._children[name].stop(timeout_s)
            kill_left_behind(self._state)
            if self._ray:
                self._ray.remove()

    def _watch(self) -> None:
        """Ask whether the children work, until the stop."""
        with Client(self.url, retry_s=0, timeout_s=ASK_TIMEOUT_S) as client:
            while not self._stopping.wait(ASK_PAUSE_S):
                pids = self.pids
                try:
                    readiness = client.ready()
                except ClientError:
                    readiness = None
                self._hangs.look(pids, readiness)

    def _supervise(self, child: Child) -> None:
        if child.is_stopped:
            self._say(f"the {child.name} was stopped by a signal")
            child.kill()
        elif child.pid is not None and self._hangs.found(child.name, child.pid):
            self._say(f"the {child.name} does not respond")
            child.kill()
        if child.name == "ray" and child.pid is not None and self._ray and self._ray.raylet_exited(child.pid):
            child.kill()
        if how := child.died():
            if child.name == "ray" and "dispatcher" in self.pids:
                self._children["dispatcher"].ask_to_end()
            if child.keeps_dying:
                self.error = f"The {child.name} {how} repeatedly, right after its start. {self._end_of(child.name)}"
                return
            self._say(f"the {child.name} {how} and is restarted")
        if child.pid is None and time.monotonic() >= child.start_at and self._may_start(child):
            self._state.children[child.name] = child.start()
            if child.name == "ray" and self._ray and self._ray.notice:
                self._say(self._ray.notice)
            if self._ray and self._ray.folder:
                self._state.folders = [str(self._ray.folder)]
            try:
                self._home.write(self._state)
            except OSError as error:
                # The process is found by its mark if this supervisor is killed, so a full disk ends nothing here.
                self._say(f"the state cannot be written to {self._settings.home}: {error.strerror}")
        child.prepare_standby()

    def _end_of(self, name: str) -> str:
        """The reason that the log of a child has, as a sentence and the last lines of the log."""
        child = self._children.get(name)
        if child is None:
            return f"Logs: {self._home.logs}"
        end = f"The log of the {name}, {child.log}, ends with:\n{child.log_tail() or '(it is empty)'}"
        errors = self._ray.errors() if self._ray and name == "ray" else ""
        return "\n".join(filter(None, [end, errors]))

    def _may_start(self, child: Child) -> bool:
        # The dispatcher takes as long as Ray to start and waits for it itself, but it has to be given the port.
        return child.name != "dispatcher" or self._ray is None or self._children["ray"].pid is not None


def can_listen(host: str, port: int) -> bool:
    """Whether a server can listen at this address."""
    try:
        free_port(host, port)
    except OSError:
        return False
    return True


def serve(settings: Settings, say: Callable[[str], object], greet: Callable[[Supervisor, Settings], None]) -> None:
    """`normlab up`: run until SIGINT or SIGTERM.

    Args:
        settings: The settings of the service.
        say: Prints a line.
        greet: Called once the service is ready.

    Raises:
        CannotStart: The service cannot be started, or a part of it cannot be kept running.
    """
    supervisor = Supervisor(settings, say)
    stopping = False
    ready = threading.Event()

    def stop(*_: object) -> None:
        # Not an Event: the handler interrupts this thread, also while it holds the lock of an Event in `wait`.
        nonlocal stopping
        stopping = True

    def announce() -> None:
        try:
            supervisor.wait_ready()
        except CannotStart as error:
            supervisor.error = supervisor.error or str(error)
        ready.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        say("starting ...")
        with supervisor:
            threading.Thread(target=announce, daemon=True).start()
            while not ready.wait(0.1) and not stopping:
                pass
            if not stopping and supervisor.error is None:
                greet(supervisor, settings)
                say("Ctrl-C ends it.")
            while not stopping and supervisor.error is None:
                time.sleep(0.1)
            if supervisor.error is None:
                say("stopping ...")
        if supervisor.error:
            raise CannotStart(supervisor.error)
        say("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
