"""The supervisor: one per HOME; it restarts children that end, and leaves no process behind.

Its children are small scripts that run as real processes; the acceptance tests use the real ones.
"""

import contextlib
import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.cli.output import say
from service.local import hangs
from service.local.home import Home, InUse, Process, State, address_of, address_of_this_machine, read_state
from service.local.processes import LAUNCHER, Child, child_environment, kill_left_behind, rotate
from service.local.supervisor import CannotStart, Supervisor, can_listen
from service.settings import Settings

SLEEPER = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
# Like the real API it can wait to take the place of another.
STANDBY = """
import sys, time
if "--standby" in sys.argv:
    print("waits", flush=True)
    sys.stdin.readline()
print("works", flush=True)
time.sleep(600)
"""
# Like the real API it answers /readyz; like the real dispatcher it reports the address of Ray.
API = """
import http.server, os, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"status": "ready", "checks": {}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
host = os.environ.get("NORMLAB_HOST", "127.0.0.1")
http.server.HTTPServer.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
http.server.HTTPServer((host, int(os.environ["NORMLAB_PORT"])), Handler).serve_forever()
"""
DISPATCHER = "import os, time; print(os.environ['NORMLAB_RAY_ADDRESS'], flush=True); time.sleep(600)"
# Like the real Ray it listens on the given port, and has a daemon in its session.
RAY = """
import socket, subprocess, sys
port = next(int(a.split("=")[1]) for a in sys.argv if a.startswith("--port="))
daemon = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
listener = socket.create_server(("127.0.0.1", port))
print(daemon.pid, flush=True)
while True:
    listener.accept()
"""


def until(met: Callable[[], object], timeout_s: float = 120) -> None:
    """Wait for a condition that other processes make true."""
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    return Process.of(pid).alive


def can_be_reached(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url):
        return True
    return False


def child(tmp_path: Path, command: list[str], **environment: str) -> Child:
    return Child("sleeper", lambda: command, lambda: dict(os.environ) | environment, tmp_path / "sleeper.log")


def restarted(child: Child) -> Process:
    """Kill a child and start it again."""
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: child.died())
    return child.start()


@pytest.fixture
def with_standby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """A child that runs, and whose standby waits."""
    monkeypatch.setattr("service.local.processes.STEADY_S", -1)
    command = [sys.executable, "-S", "-c", STANDBY]
    child = Child("standby", lambda: command, lambda: dict(os.environ), tmp_path / "standby.log", has_standby=True)
    child.start()
    until(lambda: child.log_tail() == "works")
    child.prepare_standby()
    until(lambda: child.log_tail() == "works\nwaits")
    yield child
    child.stop(timeout_s=120)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", port=0)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small scripts as children instead of the real ones."""

    def make(supervisor: Supervisor) -> dict[str, Child]:
        ray = supervisor._ray
        assert ray is not None
        commands = {
            "ray": lambda: [sys.executable, "-S", "-c", RAY, *ray.command()],
            "dispatcher": lambda: [sys.executable, "-S", "-c", DISPATCHER],
            "api": lambda: [sys.executable, "-S", "-c", API],
        }
        logs = supervisor._home.logs
        return {
            name: Child(name, command, supervisor._ray_environment, logs / f"{name}.log")
            for name, command in commands.items()
        }

    monkeypatch.setattr(Supervisor, "_make_children", make)
    monkeypatch.setattr(Supervisor, "_migrate", lambda supervisor: None)


@pytest.fixture
def supervisor(settings: Settings, stand_ins: None) -> Iterator[Supervisor]:
    with Supervisor(settings) as supervisor:
        supervisor.wait_ready()
        until(lambda: len(supervisor.pids) == 3)
        yield supervisor


class TestHome:
    def test_belongs_to_one_at_a_time(self, tmp_path: Path) -> None:
        with Home(tmp_path) as home:
            home.write(State(Process.of(os.getpid()), "http://127.0.0.1:1234"))
            with (
                pytest.raises(InUse, match=r"already runs in .* and listens on http://127\.0\.0\.1:1234"),
                Home(tmp_path),
            ):
                pass
            assert address_of(tmp_path) == "http://127.0.0.1:1234"
        assert address_of(tmp_path) is None
        with Home(tmp_path) as home:
            assert home.left_behind is None

    def test_of_a_killed_supervisor_is_free_and_tells_what_it_left(self, tmp_path: Path) -> None:
        with Home(tmp_path) as home:
            home.write(
                State(Process(os.getpid(), "another time"), "http://127.0.0.1:1", children={"x": Process(1, "")})
            )
            assert address_of(tmp_path) is None
            state = read_state(tmp_path)
        assert state is not None
        assert state.children == {"x": Process(1, "")}

    def test_of_a_user_without_a_home_directory_has_no_service(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HOME", "NORMLAB_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
        assert address_of_this_machine() is None

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"supervisor": 1}'])
    def test_with_a_damaged_state_counts_as_empty(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "supervisor.json").write_text(text)
        assert read_state(tmp_path) is None


class TestProcess:
    def test_is_not_taken_for_another_with_its_id(self) -> None:
        me = Process.of(os.getpid())
        assert me.alive
        assert not Process(me.pid, me.started + "0").alive

    def test_that_ended_is_not_alive_even_before_it_is_waited_for(self) -> None:
        with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as popen:
            process = Process.of(popen.pid)
            assert process.alive
            popen.kill()
            until(lambda: not process.alive)


class TestChild:
    def test_stops_when_asked(self, tmp_path: Path) -> None:
        sleeper = child(tmp_path, SLEEPER)
        process = sleeper.start()
        until(lambda: sleeper.log_tail() == "up")
        sleeper.stop(timeout_s=120)
        assert not process.alive
        assert sleeper.pid is None

    def test_that_does_not_stop_is_killed_with_what_it_started(self, tmp_path: Path) -> None:
        parent = f"import subprocess, sys\np = subprocess.Popen([sys.executable, '-S', '-c', {STUBBORN!r}])\n"
        stubborn = child(tmp_path, [sys.executable, "-S", "-c", f"{parent}print(p.pid, flush=True)\n{STUBBORN}"])
        stubborn.start()
        until(lambda: stubborn.log_tail().count("\n") == 2)
        grandchild = int(next(line for line in stubborn.log_tail().splitlines() if line.isdigit()))
        stubborn.stop(timeout_s=0.05)
        until(lambda: not alive(grandchild))

    def test_that_dies_says_how_and_is_due_again_later_each_time(self, tmp_path: Path) -> None:
        dying = child(tmp_path, [sys.executable, "-S", "-c", "import sys; sys.exit(7)"])
        pauses = []
        for _ in range(5):
            assert not dying.keeps_dying
            dying.start()
            how: list[str] = []
            until(lambda: how.append(ended) if (ended := dying.died()) else how)  # noqa: B023
            assert how == ["ended with exit code 7"]
            pauses.append(dying.start_at - time.monotonic())
        assert pauses == sorted(pauses)
        assert dying.keeps_dying

    def test_that_was_killed_names_the_signal(self, tmp_path: Path) -> None:
        sleeper = child(tmp_path, SLEEPER)
        os.kill(sleeper.start().pid, signal.SIGKILL)
        how: list[str] = []
        until(lambda: how.append(ended) if (ended := sleeper.died()) else how)
        assert how == ["was ended by SIGKILL"]

    def test_that_has_a_standby_is_replaced_by_it(self, with_standby: Child) -> None:
        assert with_standby._standby is not None
        waiting = with_standby._standby.pid
        assert restarted(with_standby).pid == waiting
        until(lambda: with_standby.log_tail() == "works\nwaits\nworks")
        with_standby.prepare_standby()
        until(lambda: with_standby.log_tail() == "works\nwaits\nworks\nwaits")

    def test_whose_standby_has_ended_is_replaced_all_the_same(self, with_standby: Child) -> None:
        assert with_standby._standby is not None
        os.kill(with_standby._standby.pid, signal.SIGKILL)
        os.waitid(os.P_PID, with_standby._standby.pid, os.WEXITED | os.WNOWAIT)
        with_standby.prepare_standby()
        restarted(with_standby)
        until(lambda: with_standby.log_tail() == "works\nwaits\nworks")

    def test_stops_with_its_standby(self, with_standby: Child) -> None:
        assert with_standby._standby is not None
        waiting = Process.of(with_standby._standby.pid)
        with_standby.stop(timeout_s=120)
        assert not waiting.alive

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end children with their parent")
    def test_ends_with_its_supervisor_however_that_ends(self, tmp_path: Path) -> None:
        program = f"""
import os, sys, time
from pathlib import Path
from service.local.processes import Child
child = Child("c", lambda: {SLEEPER!r}, lambda: os.environ, Path({str(tmp_path / "c.log")!r}))
print(child.start().pid, flush=True)
time.sleep(600)
"""
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            until(lambda: (tmp_path / "c.log").read_text() == "up\n")
            parent.kill()
        until(lambda: not alive(pid))

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end children with their parent")
    def test_is_not_launched_for_a_supervisor_that_has_ended(self) -> None:
        done = subprocess.run([sys.executable, "-I", "-S", LAUNCHER, "1", *SLEEPER], check=False, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")

    def test_keeps_the_logs_of_the_starts_before(self, tmp_path: Path) -> None:
        log = tmp_path / "x.log"
        for start in range(6):
            rotate(log)
            log.write_text(str(start))
        kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert kept == {"x.log": "5", "x.log.1": "4", "x.log.2": "3", "x.log.3": "2"}

    @pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
    def test_left_behind_is_found_by_its_mark_though_its_parent_is_gone(self, tmp_path: Path) -> None:
        state = State(Process.of(os.getpid()), "")
        orphan = f"import subprocess; print(subprocess.Popen({SLEEPER!r}, stdout=subprocess.DEVNULL).pid, flush=True)"
        command = [sys.executable, "-S", "-c", orphan]
        environment = dict(os.environ) | {"NORMLAB_SUPERVISOR": state.mark}
        with subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True
        ) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
        assert alive(pid)
        # For a moment after exec, a process has no environment.
        until(lambda: kill_left_behind(state))
        until(lambda: not alive(pid))
        assert not kill_left_behind(state)

    def test_is_told_the_settings(self, tmp_path: Path) -> None:
        settings = Settings.model_validate({"home": tmp_path, "api_tokens": "me:secret-token", "cpus_per_worker": 2})
        environment = child_environment(settings)
        assert environment["NORMLAB_HOME"] == str(tmp_path)
        assert environment["NORMLAB_API_TOKENS"] == "me:secret-token"
        assert environment["NORMLAB_CPUS_PER_WORKER"] == "2"


class TestSupervisor:
    def test_gives_the_private_ray_no_variable_of_ray_of_the_user(
        self, settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("RAY_ADDRESS", "RAY_RUNTIME_ENV_HOOK", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_worker_niceness"):
            monkeypatch.setenv(name, "of the user")
        supervisor = Supervisor(settings)
        supervisor._state = State(Process.of(os.getpid()), "")
        environment = supervisor._ray_environment()
        assert "of the user" not in environment.values()
        assert environment["RAY_AUTH_MODE"] == "token"
        elsewhere = Supervisor(settings.model_copy(update={"ray_address": "10.0.0.1:6379"}))
        elsewhere._state = supervisor._state
        environment = elsewhere._ray_environment()
        assert {name for name in environment if environment[name] == "of the user"} == {
            "RAY_AUTH_TOKEN",
            "RAY_worker_niceness",
        }

    def test_gives_ray_neither_settings_nor_credentials_of_the_service(
        self, settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("NORMLAB_API_TOKENS_FILE", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"):
            monkeypatch.setenv(name, "a secret")
        supervisor = Supervisor(
            settings.model_copy(update={"database_url": SecretStr("postgresql://me:a secret@host/name")})
        )
        supervisor._state = State(Process.of(os.getpid()), "")
        environment = supervisor._head_environment()
        assert not [name for name, value in environment.items() if "a secret" in value]
        assert {name for name in environment if name.startswith("NORMLAB_")} == {"NORMLAB_SUPERVISOR"}
        assert environment["RAY_AUTH_TOKEN"] == supervisor._ray_environment()["RAY_AUTH_TOKEN"]
        assert environment["PATH"] == os.environ["PATH"]

    def test_makes_a_home_that_only_its_user_can_enter_and_warns_of_another(
        self, tmp_path: Path, stand_ins: None
    ) -> None:
        said: list[str] = []
        home = tmp_path / "new/home"
        for mode, warnings in ((0o700, 0), (0o755, 1)):
            with Supervisor(Settings(home=home, port=0), said.append):
                assert stat.S_IMODE(home.stat().st_mode) == mode
            assert len([line for line in said if f"{home} has the mode 755" in line]) == warnings
            home.chmod(0o755)

    def test_starts_everything_and_leaves_nothing(self, settings: Settings, stand_ins: None) -> None:
        with Supervisor(settings) as supervisor:
            supervisor.wait_ready()
            until(lambda: len(supervisor.pids) == 3)
            assert address_of(settings.home) == supervisor.url
            pids = [*supervisor.pids.values()]
            until(lambda: (settings.home / "logs" / "ray.log").read_text().strip())
            daemon = int((settings.home / "logs" / "ray.log").read_text())
            state = read_state(settings.home)
        assert not any(map(alive, [*pids, daemon]))
        assert address_of(settings.home) is None
        assert state is not None
        assert [Path(folder).exists() for folder in state.folders] == [False]

    def test_refuses_a_home_where_another_works(self, supervisor: Supervisor, settings: Settings) -> None:
        with pytest.raises(CannotStart, match=f"listens on {supervisor.url}"):
            Supervisor(settings).start()

    def test_runs_beside_one_of_another_home(self, supervisor: Supervisor, tmp_path: Path) -> None:
        with Supervisor(Settings(home=tmp_path / "second", port=0)) as second:
            second.wait_ready()
            assert second.url != supervisor.url

    @pytest.mark.parametrize("name", ["api", "dispatcher"])
    def test_starts_what_was_killed_again(self, supervisor: Supervisor, name: str) -> None:
        pids = supervisor.pids
        os.kill(pids[name], signal.SIGKILL)
        until(lambda: supervisor.pids.get(name, pids[name]) != pids[name])
        supervisor.wait_ready()
        assert {other: pid for other, pid in supervisor.pids.items() if other != name} == {
            other: pid for other, pid in pids.items() if other != name
        }

    def test_replaces_what_no_longer_responds(
        self, settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.local.supervisor.ASK_PAUSE_S", 0.01)
        monkeypatch.setattr("service.local.supervisor.ASK_TIMEOUT_S", 0.1)
        monkeypatch.setitem(hangs.HANGS_S, "api", 0.2)
        monkeypatch.setattr("worker.stopped.STOPPED_S", 3600)
        said: list[str] = []
        with Supervisor(settings, said.append) as supervisor:
            supervisor.wait_ready()
            first = supervisor.pids["api"]
            until(lambda: "api" in supervisor._hangs._children and supervisor._hangs._children["api"].worked)
            os.kill(first, signal.SIGSTOP)
            until(lambda: supervisor.pids.get("api", first) != first)
            assert "the api does not respond" in said
            monkeypatch.undo()
            supervisor.wait_ready()

    @pytest.mark.parametrize("name", ["api", "dispatcher"])
    def test_replaces_what_a_signal_has_stopped(
        self, name: str, settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.stopped.STOPPED_S", 0)
        said: list[str] = []
        with Supervisor(settings, said.append) as supervisor:
            supervisor.wait_ready()
            first = supervisor.pids[name]
            os.kill(first, signal.SIGSTOP)
            until(lambda: supervisor.pids.get(name, first) != first)
            assert f"the {name} was stopped by a signal" in said
            supervisor.wait_ready()

    def test_restarts_what_ended_though_its_output_cannot_be_written(
        self, settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open("/dev/full", "w") as full, Supervisor(settings, say) as supervisor:
            monkeypatch.setattr(sys, "stdout", full)
            until(lambda: "api" in supervisor.pids)
            first = supervisor.pids["api"]
            os.kill(first, signal.SIGKILL)
            until(lambda: supervisor.error or supervisor.pids.get("api", first) != first)
            assert supervisor.error is None

    def test_restarts_what_ended_though_its_state_cannot_be_written(
        self, settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(home: Home, state: State) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        said: list[str] = []
        with Supervisor(settings, said.append) as supervisor:
            until(lambda: "api" in supervisor.pids)
            first = supervisor.pids["api"]
            monkeypatch.setattr(Home, "write", full)
            os.kill(first, signal.SIGKILL)
            until(lambda: supervisor.error or supervisor.pids.get("api", first) != first)
            assert supervisor.error is None
        until(lambda: f"the state cannot be written to {settings.home}: No space left on device" in said)

    def test_gives_the_dispatcher_the_address_of_a_new_ray(self, supervisor: Supervisor, settings: Settings) -> None:
        log = settings.home / "logs" / "dispatcher.log"
        until(lambda: len(log.read_text().splitlines()) == 1)
        daemon = int((settings.home / "logs" / "ray.log").read_text())
        os.kill(supervisor.pids["ray"], signal.SIGKILL)
        until(lambda: len(log.read_text().splitlines()) == 2)
        first, second = log.read_text().splitlines()
        assert first != second
        assert not alive(daemon)

    def test_gives_up_on_what_dies_again_and_again(
        self, settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.local.processes.FIRST_PAUSE_S", 0.001)
        make_children = Supervisor._make_children

        def one_doomed(supervisor: Supervisor) -> dict[str, Child]:
            children = make_children(supervisor)
            doomed = [sys.executable, "-S", "-c", "print('the disk is on fire'); raise SystemExit(3)"]
            children["api"]._command = lambda: doomed
            return children

        monkeypatch.setattr(Supervisor, "_make_children", one_doomed)
        with Supervisor(settings) as supervisor, pytest.raises(CannotStart) as error:
            supervisor.wait()
        assert "The api ended with exit code 3 repeatedly, right after its start" in str(error.value)
        assert str(error.value).endswith("the disk is on fire")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("ray", "Ray does not answer"), ("api", "the api does not answer"), ("dispatcher", "no heartbeat yet")],
    )
    def test_that_is_not_ready_in_time_gives_the_reason_that_a_log_has(
        self, settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
    ) -> None:
        make_children = Supervisor._make_children
        waiting = [sys.executable, "-S", "-c", "import time; print('packaging 620 MB', flush=True); time.sleep(600)"]
        checks = b'{"status": "unavailable", "checks": {"dispatcher": {"detail": "no heartbeat yet"}}}'
        api = API.replace("""b'{"status": "ready", "checks": {}}'""", repr(checks))

        def one_that_waits(supervisor: Supervisor) -> dict[str, Child]:
            children = make_children(supervisor)
            children["api"]._command = lambda: [sys.executable, "-S", "-c", api]
            children[name]._command = lambda: waiting
            return children

        monkeypatch.setattr(Supervisor, "_make_children", one_that_waits)
        with Supervisor(settings) as supervisor:
            log = settings.home / "logs" / f"{name}.log"
            until(lambda: log.exists() and log.read_text())
            if name == "dispatcher":
                until(lambda: can_be_reached(supervisor.url))
            expected = rf"not ready after 1 s \({reason}\).*{name}\.log, ends with:\npackaging 620 MB$"
            with pytest.raises(CannotStart, match=expected):
                supervisor.wait_ready(timeout_s=1)

    def test_says_where_the_files_of_ray_are_if_not_in_the_usual_place(
        self, settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        long = tmp_path / ("x" * 60)
        long.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(long))
        said: list[str] = []
        with Supervisor(settings, said.append):
            until(lambda: len(said) > 1)
        assert said[1].startswith("Ray's files are in /tmp/normlab-")
        assert str(long) in said[1]

    @pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
    def test_ends_what_a_killed_predecessor_left(self, settings: Settings, stand_ins: None, tmp_path: Path) -> None:
        folder = tmp_path / "left"
        folder.mkdir()
        stubborn = subprocess.Popen([sys.executable, "-S", "-c", STUBBORN], start_new_session=True)
        with Home(settings.home) as home:
            state = State(Process(1, "long ago"), "http://127.0.0.1:1", folders=[str(folder)])
            state.children["api"] = Process.of(stubborn.pid)
            home.write(state)
            left = (settings.home / "supervisor.json").read_text()
        (settings.home / "supervisor.json").write_text(left)
        said: list[str] = []
        with Supervisor(settings, said.append):
            assert stubborn.wait(120) == -signal.SIGKILL
            assert not folder.exists()
        assert said[0] == "ended the processes of a supervisor that was killed"

    def test_refuses_a_port_that_is_taken(self, supervisor: Supervisor, tmp_path: Path) -> None:
        port = int(supervisor.url.rpartition(":")[2])
        assert not can_listen("127.0.0.1", port)
        with pytest.raises(CannotStart, match=f"cannot listen on port {port} of 127.0.0.1 .Address already in use.: "):
            Supervisor(Settings(home=tmp_path / "other", port=port)).start()

    @pytest.mark.parametrize("port", [0, 1])
    def test_refuses_an_address_of_another_machine(self, tmp_path: Path, port: int) -> None:
        settings = Settings(home=tmp_path, host="192.0.2.1", port=port, api_tokens=SecretStr("me:secret-token"))
        with pytest.raises(CannotStart, match=rf"port {port} of 192\.0\.2\.1 .*NORMLAB_HOST"):
            Supervisor(settings).start()

    @pytest.mark.skipif(not can_listen("::1", 0), reason="needs IPv6")
    @pytest.mark.parametrize("host", ["::1", "[::1]"])
    def test_listens_on_ipv6_at_a_free_port(self, tmp_path: Path, stand_ins: None, host: str) -> None:
        with Supervisor(Settings(home=tmp_path, host=host, port=0)) as supervisor:
            assert re.fullmatch(r"http://\[::1\]:[1-9]\d*", supervisor.url)
            assert address_of(tmp_path) == supervisor.url
            supervisor.wait_ready()

    def test_refuses_a_home_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CannotStart, match="cannot be used"):
            Supervisor(Settings(home=tmp_path / "file" / "home", port=0)).start()

    def test_says_why_a_database_cannot_be_brought_up_to_date(self, settings: Settings) -> None:
        settings = settings.model_copy(update={"home": settings.home})
        settings.home.mkdir()
        (settings.home / "normlab.db").write_bytes(b"this is no database" * 100)
        with pytest.raises(CannotStart, match="database cannot be migrated"):
            Supervisor(settings).start()
        assert address_of(settings.home) is None


def test_every_part_says_once_when_it_is_ready(settings: Settings, stand_ins: None) -> None:
    lines: list[str] = []
    with Supervisor(settings, lines.append) as supervisor:
        assert [line.split(" ready")[0] for line in lines] == ["  database"], "before the others are started"
        supervisor.wait_ready()
        supervisor.wait_ready()
    ready = [line for line in lines if re.fullmatch(r"  \w+ ready after \d+\.\d s", line)]
    assert sorted(line.split()[0] for line in ready) == ["API", "Ray", "database", "dispatcher"]


def test_a_part_that_is_not_ready_says_nothing(
    settings: Settings, stand_ins: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    degraded = {
        "status": "degraded",
        "checks": {"database": {"ok": True, "detail": ""}, "dispatcher": {"ok": False, "detail": "late"}},
    }
    monkeypatch.setattr("service.client.Client.ready", lambda client: degraded)
    lines: list[str] = []
    with Supervisor(settings, lines.append) as supervisor, pytest.raises(CannotStart, match="late"):
        supervisor.wait_ready(timeout_s=0.5)
    assert not any("dispatcher ready" in line for line in lines)


UP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop())
from service.local import supervisor
supervisor.Supervisor._make_children = lambda self: {}
supervisor.Supervisor.wait_ready = lambda self: None
from service.cli import main
main()
"""
"""`normlab up` without its children."""
ROOT = str(Path(__file__).parents[4])


def test_up_ends_on_a_signal_and_says_where_it_listened(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UP, "up", "--home", tmp_path, "--port", "0", ROOT], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("Dashboard: http://127.0.0.1:") for line in lines)
        assert json.loads((tmp_path / "supervisor.json").read_text())["supervisor"]["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        assert list(lines)[-1] == "stopped\n"
    assert process.returncode == 0
    assert read_state(tmp_path) is None


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", ">/dev/full 2>&1"])
def test_up_serves_where_its_output_cannot_be_written(tmp_path: Path, redirection: str) -> None:
    command = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", UP]
    with subprocess.Popen([*command, "up", "--home", tmp_path, "--port", "0", ROOT], stderr=subprocess.PIPE) as process:
        until(lambda: (tmp_path / "supervisor.json").exists())
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 0


def test_up_serves_after_the_reader_of_its_output_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", UP, "up", "--home", tmp_path, "--port", "0", ROOT], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"starting ...\n"
        assert process.stdout.readline().startswith(b"  database ready after ")
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0
