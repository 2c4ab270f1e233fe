"""The training process trains at the far end of a pipe, and never outlives who reads from it."""

import os
import queue
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from worker.checkpoints.checkpoint import Checkpoint, verify
from worker.data import mapped_files
from worker.data.datasets import ImageDataset
from worker.distributed.rank import Place
from worker.events import CheckpointTaken, Event, Finished
from worker.process.training_process import (
    Ask,
    Listening,
    Prepare,
    Reported,
    Start,
    TrainingProcess,
    TrainingProcessGone,
)

PATIENCE_S = 120
LEASE_S = 60.0
SPEC = {
    "normalization": {"type": "group", "num_groups": 8},
    "batch_size": 32,
    "epochs": 2,
    "dataset": {"name": "synthetic", "train_limit": 128, "test_limit": 50},
}


class Near:
    """A training process, and what it reported."""

    def __init__(self, lease_s: float) -> None:
        self.reported: queue.SimpleQueue[Reported | Listening | None] = queue.SimpleQueue()
        prepare = Prepare(threads=1, lease_s=lease_s, gpu=False)
        self.process = TrainingProcess(prepare, self.reported.put, lambda: self.reported.put(None))
        self.process.wait_ready()

    def next(self) -> Reported:
        reported = self.reported.get(timeout=PATIENCE_S)
        assert isinstance(reported, Reported), "the process ended"
        return reported

    def until(self, wanted: Callable[[Event], bool]) -> list[Reported]:
        """What is reported, up to and with the first event that is wanted."""
        found = [self.next()]
        while not wanted(found[-1].event):
            found.append(self.next())
        return found

    def finish(self) -> tuple[Finished, list[Reported]]:
        found = self.until(lambda event: isinstance(event, Finished))
        finished = found[-1].event
        assert isinstance(finished, Finished)
        return finished, found

    def wait_for_end(self) -> None:
        while self.reported.get(timeout=PATIENCE_S) is not None:
            pass


@pytest.fixture(scope="module")
def images(synthetic: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mapped_files.publish(synthetic, tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Near]:
    """One process for the tests that leave it whole."""
    near = Near(LEASE_S)
    yield near
    near.process.end()
    near.wait_for_end()


@pytest.fixture
def start_process() -> Iterator[Callable[..., Near]]:
    started: list[Near] = []

    def start(lease_s: float = LEASE_S) -> Near:
        started.append(Near(lease_s))
        return started[-1]

    yield start
    for near in started:
        near.process.end()


def is_step(event: Event) -> bool:
    return event.type == "progress" and event.step > 0


def test_it_trains_one_attempt_after_another_and_reports_the_files_of_checkpoints(shared: Near, images: Path) -> None:
    weights = []
    for attempt in ("first", "second"):
        shared.process.start(Start(attempt, SPEC, images, None))
        finished, reported = shared.finish()

        assert finished.outcome == "succeeded"
        assert {report.attempt_id for report in reported} == {attempt}
        taken = [report for report in reported if isinstance(report.event, CheckpointTaken)]
        assert [report.event.step for report in taken if isinstance(report.event, CheckpointTaken)] == [4, 8]
        assert all((report.files is not None) == isinstance(report.event, CheckpointTaken) for report in reported)
        assert taken[-1].files is not None
        verify(Checkpoint.from_files(taken[-1].files))
        weights.append(taken[-1].files["model.safetensors"])
    assert weights[0] == weights[1]


def test_an_attempt_resumes_from_the_files_of_a_checkpoint(shared: Near, images: Path) -> None:
    shared.process.start(Start("whole", SPEC, images, None))
    checkpoints = [r.files for r in shared.finish()[1] if r.files is not None]
    shared.process.start(Start("resumed", SPEC, images, checkpoints[0]))
    finished, reported = shared.finish()

    assert finished.outcome == "succeeded"
    assert reported[0].event.resumed_from_step == 4  # type: ignore[union-attr]
    last = [r.files for r in reported if r.files is not None][-1]
    assert last["model.safetensors"] == checkpoints[-1]["model.safetensors"]


def test_images_that_could_not_be_shared_come_through_the_pipe(shared: Near, synthetic: ImageDataset) -> None:
    shared.process.start(Start("by pipe", SPEC | {"epochs": 1}, synthetic, None))

    assert shared.finish()[0].outcome == "succeeded"


@pytest.mark.parametrize(("request_", "outcome"), [("pause", "paused"), ("cancel", "cancelled")])
def test_it_obeys(shared: Near, images: Path, request_: Any, outcome: str) -> None:
    shared.process.start(Start(request_, SPEC | {"epochs": 1000}, images, None))
    shared.until(is_step)
    shared.process.ask(Ask("another attempt", "cancel"))
    shared.process.ask(Ask(request_, request_))

    assert shared.finish()[0].outcome == outcome


def test_a_pause_does_not_take_a_cancellation_back(shared: Near, images: Path) -> None:
    shared.process.start(Start("both", SPEC | {"epochs": 1000}, images, None))
    shared.process.ask(Ask("both", "cancel"))
    shared.process.ask(Ask("both", "pause"))

    assert shared.finish()[0].outcome == "cancelled"


def test_what_goes_wrong_is_reported_and_the_next_attempt_trains(shared: Near, images: Path, tmp_path: Path) -> None:
    shared.process.start(Start("no images", SPEC, tmp_path / "synthetic-0", None))
    failed, _ = shared.finish()
    assert failed.outcome == "failed"
    assert failed.failure is not None
    assert "synthetic-0" in failed.failure.message

    shared.process.start(Start("after it", SPEC | {"epochs": 1}, images, None))
    assert shared.finish()[0].outcome == "succeeded"


def test_a_training_whose_lease_is_not_renewed_ends(start_process: Any, images: Path) -> None:
    near = start_process(lease_s=1.0)
    near.process.start(Start("forgotten", SPEC | {"epochs": 1000}, images, None))

    assert near.finish()[0].outcome == "cancelled"


def test_a_training_whose_lease_is_renewed_goes_on(start_process: Any, images: Path) -> None:
    near = start_process(lease_s=1.5)
    near.process.start(Start("renewed", SPEC | {"epochs": 1000}, images, None))
    # Progress comes about once a second: several leases long.
    for _ in range(4):
        near.until(is_step)
        near.process.renew()
    near.process.ask(Ask("renewed", "pause"))

    assert near.finish()[0].outcome == "paused"


def test_the_end_of_the_process_is_noticed_and_said(start_process: Any, images: Path) -> None:
    near = start_process()
    near.process.start(Start("killed", SPEC | {"epochs": 1000}, images, None))
    near.until(is_step)
    os.kill(near.process.pid, signal.SIGKILL)
    near.wait_for_end()

    assert near.process.gone
    for call in (near.process.check, near.process.renew, lambda: near.process.start(Start("late", SPEC, images, None))):
        with pytest.raises(TrainingProcessGone, match="was ended by SIGKILL"):
            call()


def test_a_process_that_does_not_answer_is_given_up(start_process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    near = start_process()
    os.kill(near.process.pid, signal.SIGSTOP)
    near.process.renew()
    near.process.renew()
    later = time.monotonic() + LEASE_S + 1
    monkeypatch.setattr("worker.process.training_process.time", SimpleNamespace(monotonic=lambda: later))

    with pytest.raises(TrainingProcessGone, match="not answered for 60 s"):
        near.process.renew()


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    script = """
import os, sys
from worker.process.training_process import Prepare, TrainingProcess
process = TrainingProcess(Prepare(1, 60.0, False), print, lambda: None)
process.wait_ready()
print(process.pid, flush=True)
sys.stdin.read()
os._exit(0)
"""
    starter = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdin is not None
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    descriptor = os.pidfd_open(pid)
    try:
        starter.stdin.close()
        starter.wait(PATIENCE_S)
        # A process is readable by its descriptor once it has ended.
        assert select.select([descriptor], [], [], PATIENCE_S)[0]
    finally:
        os.close(descriptor)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        starter.stdout.close()


class EndedProcess(subprocess.Popen[bytes]):
    """One that has ended before anybody can write to it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wait(PATIENCE_S)


@pytest.mark.parametrize("popen", [subprocess.Popen, EndedProcess], ids=["beginning", "ended"])
def test_a_process_that_cannot_begin_says_so(monkeypatch: pytest.MonkeyPatch, popen: type) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(subprocess, "Popen", popen)
    process = TrainingProcess(Prepare(1, LEASE_S, False), lambda _: None, lambda: None)

    with pytest.raises(TrainingProcessGone, match="ended with exit code 1"):
        process.wait_ready()


def test_two_processes_train_one_model_and_the_death_of_one_leaves_the_other_as_good_as_new(
    start_process: Callable[..., Near], images: Path
) -> None:
    first, second = start_process(), start_process()
    spec = SPEC | {"num_workers": 2, "batch_size": 16, "epochs": 200}
    place = Place(0, 2, "127.0.0.1", timeout_s=PATIENCE_S)
    first.process.start(Start("gang", spec, images, None, place))
    listening = first.reported.get(timeout=PATIENCE_S)
    assert isinstance(listening, Listening)
    assert listening.attempt_id == "gang"
    second.process.start(Start("gang", spec, images, None, replace(place, rank=1, address=listening.address)))
    first.until(is_step)
    os.kill(second.process.pid, signal.SIGKILL)

    finished, _ = first.finish()
    assert finished.failure is not None
    assert finished.failure.code == "peer"
    assert first.process.device == "cpu"
    first.process.start(Start("alone", SPEC, images, None))
    assert first.finish()[0].outcome == "succeeded"
