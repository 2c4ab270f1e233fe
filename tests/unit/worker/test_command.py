"""`python -m worker` prints events, writes checkpoints to a folder, and explains invalid arguments."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import worker
from worker.__main__ import Interrupts, app, latest
from worker.checkpoints.checkpoint import read_checkpoint
from worker.training.static_step import StaticStep

ROOT = Path(worker.__file__).parents[1]
SPEC: dict[str, Any] = {
    "normalization": {"type": "group"},
    "batch_size": 8,
    "epochs": 3,
    "dataset": {"name": "synthetic", "train_limit": 16, "test_limit": 10},
}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(SPEC))
    return path


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "worker", *map(str, arguments), "--threads", "1", "--device", "cpu"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "NORMLAB_DATA_DIR"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object) -> tuple[int, list[Any], str]:
    """Return exit code, events and standard error."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--threads", "1", "--device", "cpu"])
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def until(lines: Iterator[str], type: str) -> list[Any]:
    events: list[Any] = []
    while not events or events[-1]["type"] != type:
        events.append(json.loads(next(lines)))
    return events


def test_it_prints_numbered_events_and_keeps_the_best_and_the_last_checkpoints(spec: Path, tmp_path: Path) -> None:
    spec.write_text(json.dumps(SPEC | {"checkpoint": {"keep_last": 1}}))
    code, events, err = run(spec, "--output", tmp_path / "out")

    assert (code, err) == (0, "")
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"], events[-1]["outcome"]) == ("started", "finished", "succeeded")
    taken = {event["step"]: event["metrics"]["test_error"] for event in events if event["type"] == "checkpoint"}
    assert list(taken) == [2, 4, 6]
    best = min(taken, key=lambda step: taken[step])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"step-{step:08d}" for step in (best, 6)}
    assert read_checkpoint(tmp_path / "out" / "step-00000006").metrics == {
        name: value for event in events if event["type"] == "checkpoint" for name, value in event["metrics"].items()
    }


def test_interrupted_it_pauses_with_a_checkpoint(spec: Path, tmp_path: Path) -> None:
    # Long enough not to end before the signal arrives.
    spec.write_text(json.dumps(SPEC | {"epochs": 10_000, "checkpoint": {"every_epochs": 10_000}}))
    with start(spec, "--output", tmp_path / "out") as process:
        assert process.stdout is not None
        events = until(process.stdout, "progress")
        process.send_signal(signal.SIGINT)
        events += until(process.stdout, "finished")
        assert process.wait(timeout=120) == 3
    assert events[-1]["outcome"] == "paused"
    assert events[-2]["type"] == "checkpoint"
    assert read_checkpoint(latest(tmp_path / "out")).step == events[-2]["step"]


def test_it_begins_with_the_weights_of_a_checkpoint(spec: Path, tmp_path: Path) -> None:
    run(spec, "--output", tmp_path / "first")
    spec.write_text(json.dumps(SPEC | {"epochs": 1, "init_from": "checkpoint_1"}))

    code, events, _ = run(spec, "--initial", tmp_path / "first")
    assert (code, events[0]["resumed_from_step"]) == (0, 0)
    code, events, _ = run(spec)
    assert code == 1
    assert "init_from is checkpoint_1, but the training was not given that checkpoint" in str(events[-1])


def test_it_resumes_from_the_latest_checkpoint_of_a_folder(spec: Path, tmp_path: Path) -> None:
    run(spec, "--output", tmp_path / "out")
    last = tmp_path / "out" / "step-00000006"
    weights = (last / "model.safetensors").read_bytes()
    shutil.rmtree(last)

    code, events, _ = run(spec, "--output", tmp_path / "out", "--resume", tmp_path / "out")

    assert code == 0
    assert events[0]["resumed_from_step"] == 4
    assert (last / "model.safetensors").read_bytes() == weights


def test_output_that_cannot_be_written_ends_it_without_a_traceback(spec: Path) -> None:
    command = [sys.executable, "-m", "worker", str(spec)]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (5, "standard output: No space left on device\n")


def test_a_second_interrupt_cancels_and_afterwards_signals_are_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        asked = [interrupts.control()]
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            asked.append(interrupts.control())

    assert asked == [None, "pause", "cancel"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch_size": 0}, ["batch_size", "greater than or equal to 1"]),
        ({"batch_sise": 8}, ["batch_sise", "not permitted"]),
        ({"normalization": {"type": "group", "num_groups": 7}}, ["normalization", "num_groups is 7", "1, 2, 4, 8, 16"]),
    ],
)
def test_a_spec_that_cannot_work_is_refused_with_the_field_and_what_is_accepted(
    spec: Path, change: dict[str, Any], says: list[str]
) -> None:
    spec.write_text(json.dumps(SPEC | change))
    code, events, err = run(spec)

    assert (code, events) == (2, [])
    assert "Traceback" not in err
    for part in says:
        assert part in err


def test_a_missing_spec_or_checkpoint_is_refused_with_its_path(spec: Path, tmp_path: Path) -> None:
    for arguments in ((tmp_path / "none.json",), (spec, "--resume", tmp_path / "none")):
        code, events, err = run(*arguments)
        assert (code, events) == (2, [])
        assert str(tmp_path / "none") in err
        assert "Traceback" not in err


def test_a_damaged_dataset_fails_the_attempt(spec: Path, tmp_path: Path) -> None:
    spec.write_text(json.dumps(SPEC | {"dataset": {"name": "cifar10"}}))
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    code, events, _ = run(spec, "--data-dir", tmp_path / "data")

    assert code == 1
    assert [event["type"] for event in events] == ["finished"]
    assert events[0]["failure"]["code"] == "dataset"
    assert "data_batch_1 is missing" in events[0]["failure"]["message"]


def test_a_spec_with_several_workers_is_refused(spec: Path) -> None:
    spec.write_text(json.dumps(SPEC | {"num_workers": 2}))

    code, events, error = run(spec)

    assert (code, events) == (2, [])
    assert "num_workers is 2, but this command trains on one: submit the job, or give 1" in error


def test_without_a_home_directory_it_asks_for_the_folder_of_the_images(
    spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "NORMLAB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    code, events, error = run(spec)
    assert (code, events) == (2, [])
    assert error == "--data-dir is ~/.cache/normlab/data, and there is no home directory: give one that exists\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_cannot_be_used_is_an_error(spec: Path) -> None:
    result = CliRunner().invoke(app, [str(spec), "--device", "cuda"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("--device is cuda, but torch ")


def test_an_attempt_that_loses_its_device_fails(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_step(step: StaticStep) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(StaticStep, "run", run_step)
    code, events, _ = run(spec)
    assert (code, events[-1]["failure"]["code"]) == (1, "exception")
    assert "cpu cannot be used any more at step 0" in events[-1]["failure"]["message"]
