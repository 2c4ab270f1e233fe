"""A process that a signal has stopped is given up after a while, and no other process is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from worker.stopped import LONGEST_PAUSE_S, STOPPED_S, StopWatch


class Watched:
    """A process, and a watch with a clock that the test moves."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.now = process, 100.0
        self.watch = StopWatch(process.pid, lambda: self.now)

    def send(self, number: signal.Signals, state: int) -> None:
        os.kill(self.process.pid, number)
        os.waitid(os.P_PID, self.process.pid, state)

    def given_up_after(self, seconds: float, pause_s: float = 1.0) -> bool:
        """Look for some seconds, and return whether the process was given up at the last look."""
        given_up = self.watch.is_given_up()
        end = self.now + seconds
        while self.now < end:
            self.now += pause_s
            given_up = self.watch.is_given_up()
        return given_up


@pytest.fixture
def watched() -> Iterator[Watched]:
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]) as process:
        yield Watched(process)
        process.kill()


def test_a_stopped_process_is_given_up(watched: Watched) -> None:
    watched.send(signal.SIGSTOP, os.WSTOPPED)
    assert not watched.given_up_after(STOPPED_S - 1)
    assert watched.given_up_after(1)


def test_a_process_that_sleeps_is_not(watched: Watched) -> None:
    assert not watched.given_up_after(10 * STOPPED_S)


def test_a_process_that_continues_in_time_is_not(watched: Watched) -> None:
    for _ in range(3):
        watched.send(signal.SIGSTOP, os.WSTOPPED)
        assert not watched.given_up_after(STOPPED_S - 1)
        watched.send(signal.SIGCONT, os.WCONTINUED)
        assert not watched.given_up_after(1)


def test_time_in_which_nobody_looked_does_not_count(watched: Watched) -> None:
    watched.send(signal.SIGSTOP, os.WSTOPPED)
    assert not watched.given_up_after(3600, pause_s=3600)
    assert watched.given_up_after(STOPPED_S - LONGEST_PAUSE_S)


def test_a_process_that_has_ended_is_not(watched: Watched) -> None:
    watched.process.kill()
    watched.process.wait()
    assert not watched.given_up_after(10 * STOPPED_S)
