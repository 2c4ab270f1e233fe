"""Processes are ended by their ids, whether they respond or not, and no other process is."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from worker.process.process_ids import ProcessId, end, machine

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

Sleeper = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Sleeper]:
    """Start a process that has a child, and return once it has printed the id of the child."""
    program = "import os, time; child = os.fork(); child and print(child, flush=True); time.sleep(600)"
    with ExitStack() as started:

        def start(title: str = "sleeper") -> subprocess.Popen[str]:
            command = [title, "-S", "-c", program]
            process = subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE, text=True)
            started.enter_context(process)
            started.callback(lambda: end([ProcessId.of(process.pid)]))
            return process

        yield start


def child_of(process: subprocess.Popen[str]) -> ProcessId:
    assert process.stdout is not None
    return ProcessId.of(int(process.stdout.readline()))


def test_a_stopped_process_ends_with_its_children(start: Sleeper) -> None:
    process = start()
    child = child_of(process)
    for pid in (process.pid, child.pid):
        os.kill(pid, signal.SIGSTOP)
    end([ProcessId.of(process.pid)])
    assert process.wait(120) == -signal.SIGKILL
    while ProcessId.of(child.pid) == child:
        pass


def test_another_process_that_has_the_same_id_by_now_is_left_alone(start: Sleeper) -> None:
    process = start()
    child_of(process)
    end([replace(ProcessId.of(process.pid), started="1"), ProcessId(2**22 + 1, "1")])
    assert process.poll() is None


@pytest.mark.parametrize(("title", "ends"), [("ray::TrainingWorker.poll", True), ("ray::IDLE", False)])
def test_without_a_start_time_only_an_actor_of_this_class_ends(start: Sleeper, title: str, ends: bool) -> None:
    process = start(title)
    child_of(process)
    end([ProcessId(process.pid)])
    if ends:
        assert process.wait(120) == -signal.SIGKILL
    else:
        assert process.poll() is None


def test_the_processes_of_a_machine_agree_on_what_identifies_it() -> None:
    program = "from worker.process.process_ids import machine; print(machine())"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == machine()
