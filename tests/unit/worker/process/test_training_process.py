"""The training process trains at the other end of a pipe and never outlives the process that started it."""

import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from worker.checkpoints.checkpoint import Checkpoint, verify
from worker.data import mapped_files
from worker.data.datasets import ImageDataset
from worker.distributed.rank import RankInfo
from worker.events import CheckpointTaken, Evaluated, Event, Failure, Finished
from worker.numerics.precision import has_bfloat16
from worker.process.messages import Compare, Configure, Evaluate, Listening, Reported, Start, Stop
from worker.process.training_process import TrainingProcess, TrainingProcessGone

PATIENCE_S = 120
LEASE_S = 60.0
SPEC = {
    "normalization": {"type": "group", "num_groups": 8},
    "batch_size": 32,
    "epochs": 2,
    "dataset": {"name": "synthetic", "train_limit": 128, "test_limit": 50},
}


class Trainer:
    """A training process and its reports."""

    def __init__(self, lease_s: float) -> None:
        self.reported: queue.SimpleQueue[Reported | Listening | None] = queue.SimpleQueue()
        configuration = Configure(threads=1, lease_s=lease_s, gpu_share=0)
        self.process = TrainingProcess(configuration, self.reported.put, lambda: self.reported.put(None))
        self.process.wait_ready()

    def next(self) -> Reported:
        reported = self.reported.get(timeout=PATIENCE_S)
        assert isinstance(reported, Reported), "the process ended"
        return reported

    def until(self, wanted: Callable[[Event], bool]) -> list[Reported]:
        """The reports up to and including the first wanted event."""
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
def shared() -> Iterator[Trainer]:
    """A process for all tests that do not end it."""
    trainer = Trainer(LEASE_S)
    yield trainer
    trainer.process.kill()
    trainer.wait_for_end()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_it_does_not_have_the_token_of_ray(
    start_process: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a secret")
    environment = Path(f"/proc/{start_process().process.pid}/environ").read_bytes().split(b"\0")
    assert b"OMP_NUM_THREADS=1" in environment
    assert not [variable for variable in environment if variable.startswith(b"RAY_")]


@pytest.fixture
def start_process() -> Iterator[Callable[..., Trainer]]:
    started: list[Trainer] = []

    def start(lease_s: float = LEASE_S) -> Trainer:
        started.append(Trainer(lease_s))
        return started[-1]

    yield start
    for trainer in started:
        trainer.process.kill()


def is_step(event: Event) -> bool:
    return event.type == "progress" and event.step > 0


def test_it_trains_attempt_after_attempt_and_reports_the_files_of_checkpoints(shared: Trainer, images: Path) -> None:
    weights = []
    for attempt in ("first", "second"):
        shared.process.start(Start(attempt, SPEC, images, None))
        finished, reported = shared.finish()

        assert finished.outcome == "succeeded"
        assert finished.usage is not None
        assert finished.usage.cpu_s > 0
        assert finished.usage.peak_memory_bytes > 50 * 10**6, "torch alone takes more"
        assert finished.usage.peak_gpu_memory_bytes is None
        assert {report.attempt_id for report in reported} == {attempt}
        taken = [report for report in reported if isinstance(report.event, CheckpointTaken)]
        assert [report.event.step for report in taken if isinstance(report.event, CheckpointTaken)] == [4, 8]
        assert all((report.files is not None) == isinstance(report.event, CheckpointTaken) for report in reported)
        assert taken[-1].files is not None
        verify(Checkpoint.from_files(taken[-1].files))
        weights.append(taken[-1].files["model.safetensors"])
    assert weights[0] == weights[1]


def test_it_measures_a_step_in_each_precision_once_between_attempts(shared: Trainer, images: Path) -> None:
    measured = shared.process.compare(Compare("resnet20", 2))
    assert set(measured.seconds) == {"float32", "bfloat16"}
    assert shared.process.compare(Compare("resnet20", 2)) == measured, "a second measurement would differ"
    assert shared.process.compare(Compare("resnet20", 1)) != measured
    shared.process.start(Start("in bfloat16", SPEC | {"epochs": 1}, images, None, precision="bfloat16"))
    finished, reported = shared.finish()
    assert (finished.outcome, reported[0].event.precision) == ("succeeded", "bfloat16")  # type: ignore[union-attr]


def test_it_evaluates_a_checkpoint_between_attempts(shared: Trainer, images: Path) -> None:
    shared.process.start(Start("to be evaluated", SPEC, images, None))
    taken = [r for r in shared.finish()[1] if r.files is not None][-1]
    assert taken.files is not None
    found = shared.process.evaluate(Evaluate(taken.files, images, {"split": "test"})).result

    assert isinstance(found, Evaluated)
    assert found.error == taken.event.metrics["test_error"]  # type: ignore[union-attr]
    refused = shared.process.evaluate(Evaluate(taken.files, images, {"split": "holdout"})).result
    assert isinstance(refused, Failure)
    assert "the training holds out no images" in refused.message


def test_it_says_whether_its_cpu_computes_in_bfloat16(shared: Trainer) -> None:
    assert (shared.process.device, shared.process.bfloat16) == ("cpu", has_bfloat16(torch.device("cpu")))


def test_a_measurement_ends_with_the_process(start_process: Callable[..., Trainer]) -> None:
    trainer = start_process()
    os.kill(trainer.process.pid, signal.SIGSTOP)
    threading.Timer(0, trainer.process.kill).start()
    with pytest.raises(TrainingProcessGone):
        trainer.process.compare(Compare("resnet20", 2))


def test_an_attempt_resumes_from_the_files_of_a_checkpoint(shared: Trainer, images: Path) -> None:
    shared.process.start(Start("whole", SPEC, images, None))
    checkpoints = [r.files for r in shared.finish()[1] if r.files is not None]
    shared.process.start(Start("resumed", SPEC, images, checkpoints[0]))
    finished, reported = shared.finish()

    assert finished.outcome == "succeeded"
    assert reported[0].event.resumed_from_step == 4  # type: ignore[union-attr]
    last = [r.files for r in reported if r.files is not None][-1]
    assert last["model.safetensors"] == checkpoints[-1]["model.safetensors"]


def test_a_dataset_that_is_not_on_disk_is_sent_over_the_pipe(shared: Trainer, synthetic: ImageDataset) -> None:
    shared.process.start(Start("by pipe", SPEC | {"epochs": 1}, synthetic, None))

    assert shared.finish()[0].outcome == "succeeded"


@pytest.mark.parametrize(("request_", "outcome"), [("pause", "paused"), ("cancel", "cancelled")])
def test_it_pauses_and_cancels_on_request(shared: Trainer, images: Path, request_: Any, outcome: str) -> None:
    shared.process.start(Start(request_, SPEC | {"epochs": 1000}, images, None))
    shared.until(is_step)
    shared.process.stop(Stop("another attempt", "cancel"))
    shared.process.stop(Stop(request_, request_))

    assert shared.finish()[0].outcome == outcome


def test_a_pause_does_not_replace_a_cancellation(shared: Trainer, images: Path) -> None:
    shared.process.start(Start("both", SPEC | {"epochs": 1000}, images, None))
    shared.process.stop(Stop("both", "cancel"))
    shared.process.stop(Stop("both", "pause"))

    assert shared.finish()[0].outcome == "cancelled"


def test_an_error_is_reported_and_the_next_attempt_trains(shared: Trainer, images: Path, tmp_path: Path) -> None:
    shared.process.start(Start("no images", SPEC, tmp_path / "synthetic-0", None))
    failed, _ = shared.finish()
    assert failed.outcome == "failed"
    assert failed.failure is not None
    assert "synthetic-0" in failed.failure.message

    shared.process.start(Start("after it", SPEC | {"epochs": 1}, images, None))
    assert shared.finish()[0].outcome == "succeeded"


def test_a_training_whose_lease_is_not_renewed_pauses_with_a_checkpoint(start_process: Any, images: Path) -> None:
    trainer = start_process(lease_s=1.0)
    trainer.process.start(Start("forgotten", SPEC | {"epochs": 1000}, images, None))

    finished, found = trainer.finish()
    assert finished.outcome == "paused"
    *_, checkpoint, _ = found
    assert isinstance(checkpoint.event, CheckpointTaken)
    assert checkpoint.files


def test_a_training_whose_lease_is_renewed_goes_on(start_process: Any, images: Path) -> None:
    lease_s = 4.0
    trainer = start_process(lease_s=lease_s)
    trainer.process.start(Start("renewed", SPEC | {"epochs": 1000}, images, None))
    trainer.until(is_step)
    renewed_until = time.monotonic() + 2 * lease_s
    # Rows of metrics come several times per lease.
    while time.monotonic() < renewed_until:
        assert not isinstance(trainer.next().event, Finished)
        trainer.process.renew_lease()
    trainer.process.stop(Stop("renewed", "pause"))

    assert trainer.finish()[0].outcome == "paused"


def test_the_end_of_the_process_is_noticed_and_explained(start_process: Any, images: Path) -> None:
    trainer = start_process()
    trainer.process.start(Start("killed", SPEC | {"epochs": 1000}, images, None))
    trainer.until(is_step)
    os.kill(trainer.process.pid, signal.SIGKILL)
    trainer.wait_for_end()

    assert trainer.process.gone
    process = trainer.process
    for call in (process.check, process.renew_lease, lambda: process.start(Start("late", SPEC, images, None))):
        with pytest.raises(TrainingProcessGone, match="was ended by SIGKILL"):
            call()


class Clock:
    """A clock that the test moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_process_that_does_not_answer_is_given_up(start_process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, clock = start_process(), Clock()
    os.kill(trainer.process.pid, signal.SIGSTOP)
    monkeypatch.setattr("worker.process.training_process.time", clock)
    monkeypatch.setattr("worker.stopped.STOPPED_S", 3600)
    trainer.process.renew_lease()
    # In this time the process that renews the lease was stopped itself.
    clock.now += 3600
    trainer.process.renew_lease()
    for _ in range(2):
        clock.now += 3
        trainer.process.renew_lease()
    clock.now += 3
    with pytest.raises(TrainingProcessGone, match="not answered for 10 s"):
        trainer.process.renew_lease()


def test_a_process_that_was_stopped_is_given_up(start_process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = start_process()
    trainer.process.check()
    monkeypatch.setattr("worker.stopped.STOPPED_S", 0)
    trainer.process.check()
    os.kill(trainer.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, trainer.process.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(TrainingProcessGone, match="was stopped by a signal"):
        trainer.process.check()


def test_a_process_answers_pings_while_it_trains_and_not_once_it_is_stopped(start_process: Any, images: Path) -> None:
    trainer = start_process()
    assert trainer.process.ready
    trainer.process.ping(PATIENCE_S)
    trainer.process.start(Start("pinged", SPEC | {"epochs": 1000}, images, None))
    trainer.until(is_step)
    trainer.process.ping(PATIENCE_S)
    os.kill(trainer.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, trainer.process.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(TrainingProcessGone, match="not answered for 1 s"):
        trainer.process.ping(1)
    os.kill(trainer.process.pid, signal.SIGKILL)
    with pytest.raises(TrainingProcessGone, match="was ended by SIGKILL"):
        trainer.process.ping(PATIENCE_S)


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = """
import os, sys
from worker.process.messages import Configure
from worker.process.training_process import TrainingProcess
process = TrainingProcess(Configure(1, 60.0, 0), print, lambda: None)
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
    """A process that has ended before the first message is sent to it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wait(PATIENCE_S)


@pytest.mark.parametrize("popen", [subprocess.Popen, EndedProcess], ids=["beginning", "ended"])
def test_a_process_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch, popen: type) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(subprocess, "Popen", popen)
    process = TrainingProcess(Configure(1, LEASE_S, 0), lambda _: None, lambda: None)

    with pytest.raises(TrainingProcessGone, match="ended with exit code 1"):
        process.wait_ready()


@pytest.fixture
def start_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the processes that start later run some code first."""

    def change(code: str) -> None:
        program = tmp_path / "python"
        program.write_text(
            f"#!{sys.executable}\nimport runpy, sys\nsys.argv = ['', sys.argv[-1]]\n{code}\n"
            "runpy.run_module('worker.process', run_name='__main__')\n"
        )
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return change


def test_a_process_that_loses_its_device_ends_and_says_why(
    start_changed: Callable[[str], None], start_process: Callable[..., Trainer], images: Path
) -> None:
    start_changed(
        "import torch\nfrom worker.training.loop import Training\n"
        "def train_epoch(_): raise torch.AcceleratorError('CUDA error: device-side assert triggered\\nCompile with')\n"
        "Training.train_epoch = train_epoch"
    )
    trainer = start_process()
    trainer.process.start(Start("broken", SPEC, images, None))
    events = []
    while (reported := trainer.reported.get(timeout=PATIENCE_S)) is not None:
        assert isinstance(reported, Reported)
        events.append(reported.event)

    assert [event.type for event in events] == ["started", "log"], "an end was reported: the attempt would count"
    assert "AcceleratorError: CUDA error" in events[-1].message  # type: ignore[union-attr]
    with pytest.raises(TrainingProcessGone) as gone:
        trainer.process.check()
    assert str(gone.value) == (
        "the training process ended: cpu cannot be used any more at step 0: CUDA error: device-side assert triggered"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_process_that_cannot_use_its_gpu_does_not_train_on_the_cpu() -> None:
    process = TrainingProcess(Configure(1, LEASE_S, gpu_share=1), lambda _: None, lambda: None)
    with pytest.raises(TrainingProcessGone, match=r"ended: it was given a GPU that it cannot use: torch .* is built"):
        process.wait_ready()


def test_a_process_that_cannot_warm_up_says_why(start_changed: Callable[[str], None]) -> None:
    start_changed(
        "import worker.process.child as child\n"
        "def fail(device): raise RuntimeError('CUDA-capable device(s) is/are busy or unavailable\\nCompile with')\n"
        "child.warm_up = fail"
    )
    process = TrainingProcess(Configure(1, LEASE_S, 0), lambda _: None, lambda: None)
    with pytest.raises(TrainingProcessGone) as gone:
        process.wait_ready()
    assert str(gone.value) == (
        "the training process ended: RuntimeError: CUDA-capable device(s) is/are busy or unavailable"
    )


def test_two_processes_train_one_model_and_one_can_train_on_after_the_other_was_killed(
    start_process: Callable[..., Trainer], images: Path
) -> None:
    first, second = start_process(), start_process()
    spec = SPEC | {"num_workers": 2, "batch_size": 16, "epochs": 200}
    info = RankInfo(0, 2, "127.0.0.1", timeout_s=PATIENCE_S)
    first.process.start(Start("together", spec, images, None, info))
    listening = first.reported.get(timeout=PATIENCE_S)
    assert isinstance(listening, Listening)
    assert listening.attempt_id == "together"
    second.process.start(Start("together", spec, images, None, replace(info, rank=1, address=listening.address)))
    first.until(is_step)
    os.kill(second.process.pid, signal.SIGKILL)

    finished, _ = first.finish()
    assert finished.failure is not None
    assert finished.failure.code == "peer"
    assert first.process.device == "cpu"
    first.process.start(Start("alone", SPEC, images, None))
    assert first.finish()[0].outcome == "succeeded"
