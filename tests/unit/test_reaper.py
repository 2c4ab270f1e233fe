"""All processes that a test run starts end with it, even if pytest is killed. The tests run pytest and stop it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120

# The tests that the runs execute. Each reports its process and its child processes, and then blocks.
PREAMBLE = """
import os, signal, subprocess, sys, tempfile, time
import psutil

# A process that a shell starts in the background ignores SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

STAY_S = 600

def report(*pids):
    # Write in one call, because two workers of pytest-xdist report at the same time.
    os.write(2, f"\\nstarted {os.getpid()} {' '.join(map(str, pids))}\\n".encode())
    time.sleep(STAY_S)
"""
SLEEPERS = """
STUBBORN = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
DAEMON = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True)"

def start(program):
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    return int(process.stdout.readline())

def test_one():
    report(start(STUBBORN), start(DAEMON))

def test_two():
    report(start(STUBBORN), start(DAEMON))
"""
POSTGRES = """
from tests.postgres import create_database, private_server

def test():
    with private_server() as server:
        create_database(server, "new")
        postmaster = int(open(f"{server.datadir}/postmaster.pid").readline())
        report(postmaster, *(child.pid for child in psutil.Process(postmaster).children()))
"""
RAY = """
from service.local.private_ray import free_port
from service.local.ray_start import HOOK

def test():
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1"]
    command += ["--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--temp-dir={tempfile.gettempdir()}"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
    command += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
    os.environ["RAY_START_HOOK"] = HOOK
    head = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    assert any(b"Ray runtime started" in line for line in head.stdout)
    family = psutil.Process(head.pid).children(recursive=True)
    assert {"gcs_server", "raylet"} <= {process.name() for process in family}
    report(head.pid, *(process.pid for process in family))
"""

TWO_WORKERS = ("-p", "xdist.plugin", "--numprocesses=2")
Run = tuple["subprocess.Popen[str]", list[list[psutil.Process]]]


@contextmanager
def run(program: str, *arguments: str, reports: int = 1) -> Iterator[Run]:
    """A run of pytest, with the processes of each test: first the one that executes it, then those that it started."""
    # A short path, for Unix sockets, that the user of PostgreSQL can read.
    with tempfile.TemporaryDirectory(prefix="reaped", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        test = Path(folder, "test_run.py")
        test.write_text(PREAMBLE + program)
        command = [sys.executable, "-m", "pytest", "-p", "tests.reaper", "-s", f"--rootdir={folder}", str(test)]
        with subprocess.Popen(
            [*command, f"--config-file={os.devnull}", *arguments],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": folder, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as pytest_run:
            assert pytest_run.stdout is not None
            started: list[list[psutil.Process]] = []
            said = ""
            try:
                for line in pytest_run.stdout:
                    said += line
                    if found := re.match("started ([0-9 ]+)$", line):
                        started.append([psutil.Process(int(pid)) for pid in found[1].split()])
                    if len(started) == reports:
                        break
                assert len(started) == reports, said
                yield pytest_run, started
            finally:
                pytest_run.kill()


def assert_ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert not alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_interrupted_run_leaves_no_process(number: signal.Signals) -> None:
    with run(SLEEPERS) as (pytest_run, [started]):
        pytest_run.send_signal(number)
        assert_ended(started[1:])


def test_a_killed_run_leaves_no_postgres() -> None:
    with run(POSTGRES) as (pytest_run, [started]):
        pytest_run.kill()
        assert_ended(started[1:])


@pytest.mark.ray
@pytest.mark.faults
def test_a_killed_run_leaves_no_ray() -> None:
    with run(RAY) as (pytest_run, [started]):
        pytest_run.kill()
        assert_ended(started[1:])


def test_workers_and_what_they_started_end_with_a_killed_controller() -> None:
    with run(SLEEPERS, *TWO_WORKERS, reports=2) as (pytest_run, [one, two]):
        assert pytest_run.pid not in (one[0].pid, two[0].pid)
        pytest_run.kill()
        assert_ended(one + two)


def test_what_a_worker_started_ends_with_it_while_the_run_goes_on() -> None:
    with run(SLEEPERS, *TWO_WORKERS, reports=2) as (pytest_run, [one, two]):
        one[0].kill()
        assert_ended(one[1:])
        assert pytest_run.poll() is None
        assert all(process.is_running() for process in two)


def test_a_run_that_ends_by_itself_leaves_no_process() -> None:
    with run(SLEEPERS + "\nSTAY_S = 0\n") as (_, [started]):
        assert_ended(started[1:])
