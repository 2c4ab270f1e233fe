"""An attempt reports its progress, stops on request, and reports the reason of a failure."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gn
from worker.checkpoints.checkpoint import load_model
from worker.data.batches import TrainingData
from worker.data.datasets import ImageDataset
from worker.events import EVENT, Failure, Finished, Metrics, Progress, Started
from worker.spec import TrainingSpec
from worker.training import cadence, loop, static_step
from worker.training.evaluation import evaluate
from worker.training.loop import train


def failure(record: Any) -> Failure:
    assert record.finished.outcome == "failed"
    found = record.finished.failure
    assert isinstance(found, Failure)
    return found


def test_an_attempt_reports_its_start_rows_checkpoints_and_end_in_order(attempt: Any, make_spec: Any) -> None:
    record = attempt(make_spec())

    epoch = ["train"] * 4 + ["eval", "checkpoint"]
    assert [type for type in record.types if type != "progress"] == ["started", *epoch, *epoch, "finished"]
    assert record.types[1] == "progress"
    assert record.finished.outcome == "succeeded"


def test_the_first_event_describes_the_attempt(attempt: Any, make_spec: Any) -> None:
    started = attempt(make_spec()).events[0]

    assert isinstance(started, Started)
    assert started.device == "cpu"
    assert started.precision == "float32"
    assert started.parameters == 269_722
    assert (started.steps_per_epoch, started.total_steps, started.resumed_from_step) == (4, 8, 0)
    assert started.versions["torch"] == torch.__version__
    assert started.versions["gn"] == "kernels"


def test_a_training_by_the_reference_says_so(attempt: Any, make_spec: Any) -> None:
    with gn.backend("reference"):
        started = attempt(make_spec(epochs=1)).events[0]
    assert started.versions["gn"] == "reference"


def test_an_evaluation_reports_its_speed(attempt: Any, make_spec: Any) -> None:
    rows = [event for event in attempt(make_spec()).events if isinstance(event, Metrics)]
    assert [row.eval_images_per_s is not None and row.eval_images_per_s > 0 for row in rows] == [
        row.kind == "eval" for row in rows
    ]


def test_every_event_reads_back_from_json(attempt: Any, make_spec: Any) -> None:
    for event in attempt(make_spec()).events:
        assert EVENT.validate_json(event.model_dump_json()) == event


def test_a_long_epoch_has_ten_train_rows_the_last_at_its_end(attempt: Any, make_spec: Any) -> None:
    record = attempt(make_spec(batch_size=5, epochs=1, drop_last=False))

    # Thirteen steps, the last of four images.
    assert [step for kind, _, step, _ in record.rows if kind == "train"] == [2, 3, 4, 6, 7, 8, 10, 11, 12, 13]


def test_a_train_row_averages_over_the_images_since_the_row_before(
    attempt: Any, make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(batch_size=24, epochs=1, drop_last=False, optimizer={"type": "sgd", "learning_rate": 1e-12})
    each = [values for kind, _, _, values in attempt(spec).rows if kind == "train"]
    monkeypatch.setattr(cadence, "TRAIN_ROWS_PER_EPOCH", 1)
    whole = [values for kind, _, _, values in attempt(spec).rows if kind == "train"]

    # Batches of 24, 24 and 16 images; the rate leaves the weights as they were.
    for name in ("train_loss", "train_error"):
        mean = sum(row[name] * count for row, count in zip(each, (24, 24, 16), strict=True)) / 64
        assert whole[0][name] == pytest.approx(mean)


def test_an_eval_row_is_what_the_checkpoint_of_that_epoch_evaluates_to(
    attempt: Any, make_spec: Any, synthetic: ImageDataset, tmp_path: Path
) -> None:
    spec = make_spec(normalization={"type": "batch"})
    record = attempt(spec)
    (tmp_path / "model.safetensors").write_bytes(record.weights)

    evaluation = evaluate(load_model(tmp_path / "model.safetensors", spec), TrainingData(spec, synthetic))

    kind, epoch, step, values = record.rows[-1]
    assert (kind, epoch, step) == ("eval", 2, 8)
    assert values == {"test_loss": evaluation.loss, "test_error": evaluation.error}
    assert record.checkpoints[-1].metrics == values


def test_with_a_holdout_the_held_out_and_the_test_images_are_evaluated(
    attempt: Any, make_spec: Any, synthetic: ImageDataset, tmp_path: Path
) -> None:
    spec = make_spec(dataset={"train_limit": 80, "holdout": 16, "test_limit": 20})
    record = attempt(spec)
    (tmp_path / "model.safetensors").write_bytes(record.weights)
    model, data = load_model(tmp_path / "model.safetensors", spec), TrainingData(spec, synthetic)

    held, tested = evaluate(model, data, split="holdout"), evaluate(model, data, split="test")
    assert record.rows[-1][3] == {
        "holdout_loss": held.loss,
        "holdout_error": held.error,
        "test_loss": tested.loss,
        "test_error": tested.error,
    }
    assert ((held.error * 16) % 1, (tested.error * 20) % 1) == (0, 0)


def test_what_is_evaluated_changes_no_bit_of_the_training(attempt: Any, make_spec: Any) -> None:
    weights = {
        attempt(
            make_spec(normalization={"type": "batch"}, dataset={"train_limit": 80, "holdout": 16, "test_limit": tested})
        ).weights
        for tested in (0, 20)
    }
    assert len(weights) == 1


def test_progress_comes_after_the_first_step_and_then_by_the_clock(
    attempt: Any, make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PROGRESS_INTERVAL_S", math.inf)
    once = [event for event in attempt(make_spec()).events if isinstance(event, Progress)]
    monkeypatch.setattr(loop, "PROGRESS_INTERVAL_S", 0.0)
    always = [event for event in attempt(make_spec()).events if isinstance(event, Progress)]

    assert [event.step for event in once] == [1]
    assert [(event.epoch, event.step) for event in always] == [(1 + step // 4, step + 1) for step in range(8)]
    assert all(event.train_loss and event.images_per_s and event.images_per_s > 0 for event in always)


def test_it_learns(attempt: Any, make_spec: Any) -> None:
    spec = make_spec(batch_size=32, epochs=1, dataset={"train_limit": 1600, "test_limit": 200})

    assert attempt(spec).rows[-1][3]["test_error"] < 0.7


@pytest.mark.parametrize("every_epochs", [1, 2, 3])
def test_a_checkpoint_is_taken_every_n_epochs_and_after_the_last(
    attempt: Any, make_spec: Any, every_epochs: int
) -> None:
    record = attempt(make_spec(epochs=4, dataset={"train_limit": 16}, checkpoint={"every_epochs": every_epochs}))

    assert [checkpoint.epoch for checkpoint in record.checkpoints] == {1: [1, 2, 3, 4], 2: [2, 4], 3: [3, 4]}[
        every_epochs
    ]


def test_timed_checkpoints_are_taken_within_an_epoch_and_once_per_step(attempt: Any, make_spec: Any) -> None:
    record = attempt(make_spec(checkpoint={"every_s": 1e-9, "every_epochs": 2}))

    assert [(checkpoint.epoch, checkpoint.step) for checkpoint in record.checkpoints] == [
        (step // 4, step) for step in range(1, 9)
    ]
    # Metrics of a checkpoint describe exactly its weights, so within an epoch there are none.
    assert [set(checkpoint.metrics) for checkpoint in record.checkpoints[2:5]] == [
        set(),
        {"test_loss", "test_error"},
        set(),
    ]


@pytest.mark.parametrize("stop_at", [0, 1, 3, 4, 6])
def test_a_pause_takes_a_checkpoint_before_the_next_step(attempt: Any, make_spec: Any, stop_at: int) -> None:
    record = attempt(make_spec(dataset={"test_limit": 10}, epochs=1, batch_size=8), stop="pause", stop_at=stop_at)

    assert record.finished.outcome == "paused"
    assert record.types[-2] == "checkpoint"
    assert record.checkpoints[-1].step == stop_at


def test_a_pause_right_after_a_checkpoint_takes_no_other(attempt: Any, make_spec: Any) -> None:
    # Four steps and one batch of evaluation call `control` before it.
    record = attempt(make_spec(), stop="pause", stop_at=5)

    assert record.finished.outcome == "paused"
    assert [checkpoint.step for checkpoint in record.checkpoints] == [4]


def test_a_pause_requested_during_an_evaluation_waits_for_its_end(attempt: Any, make_spec: Any) -> None:
    record = attempt(make_spec(checkpoint={"every_epochs": 2}), stop="pause", stop_at=4)

    assert record.finished.outcome == "paused"
    assert record.types[-3:] == ["eval", "checkpoint", "finished"]
    assert (record.checkpoints[-1].epoch, record.checkpoints[-1].step) == (1, 4)


@pytest.mark.parametrize("stop_at", [0, 2, 4])
def test_a_cancellation_stops_at_once_without_a_checkpoint(attempt: Any, make_spec: Any, stop_at: int) -> None:
    record = attempt(make_spec(), stop="cancel", stop_at=stop_at)

    assert record.finished == Finished(outcome="cancelled", time=record.finished.time)
    assert not record.checkpoints
    assert "eval" not in record.types
    assert record.types.count("train") == stop_at


def test_a_diverged_loss_fails_the_attempt_at_that_step_and_keeps_the_good_checkpoints(
    attempt: Any, make_spec: Any
) -> None:
    spec = make_spec(
        normalization={"type": "none"},
        optimizer={"type": "sgd", "learning_rate": 1e18},
        checkpoint={"every_s": 1e-9},
    )
    record = attempt(spec)
    failed = failure(record)

    assert (failed.code, failed.may_pass) == ("diverged", False)
    assert failed.step is not None
    assert f"at step {failed.step}" in failed.message
    assert all(checkpoint.step < failed.step for checkpoint in record.checkpoints)
    assert all(step < failed.step for _, _, step, _ in record.rows)
    for checkpoint in record.checkpoints:
        attempt(make_spec(normalization={"type": "none"}, optimizer=spec.optimizer.model_dump()), resume=checkpoint)


def test_weights_that_are_not_finite_are_never_saved(
    attempt: Any, make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_losses = loop.Training.read_losses

    def spoil(self: loop.Training) -> None:
        read_losses(self)
        if self.step == 3:
            next(self.model.parameters()).data[0] = math.nan

    monkeypatch.setattr(loop.Training, "read_losses", spoil)
    record = attempt(make_spec(), stop="pause", stop_at=3)

    assert failure(record).code == "diverged"
    assert failure(record).step == 3
    assert not record.checkpoints


def test_the_first_bad_step_is_named_when_many_are_read_at_once(
    attempt: Any, make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(
        normalization={"type": "none"}, batch_size=2, optimizer={"type": "sgd", "learning_rate": 1e18}, epochs=1
    )
    monkeypatch.setattr(cadence, "TRAIN_ROWS_PER_EPOCH", 1)
    read_late = failure(attempt(spec))
    monkeypatch.setattr(static_step, "MAX_SLOTS", 1)
    read_each = failure(attempt(spec))

    assert read_each == read_late


@pytest.mark.parametrize(
    ("error", "code", "may_pass"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", False),
        (MemoryError(), "out_of_memory", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory", False),
        (ValueError("a field is 3"), "invalid", False),
        (TypeError("not a number"), "invalid", False),
        (RuntimeError("the device fell off"), "exception", True),
    ],
)
def test_an_error_of_a_step_fails_the_attempt_with_its_code(
    attempt: Any, make_spec: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, may_pass: bool
) -> None:
    run, taken = static_step.StaticStep.run, 0

    def break_down(step: static_step.StaticStep) -> None:
        nonlocal taken
        if taken == 2:
            raise error
        taken += 1
        run(step)

    monkeypatch.setattr(static_step.StaticStep, "run", break_down)
    failed = failure(attempt(make_spec()))

    assert (failed.code, failed.may_pass, failed.step) == (code, may_pass, 2)
    assert str(error) in failed.message
    assert (failed.traceback is None) == (code == "out_of_memory")


def test_a_dataset_that_is_not_the_one_named_fails_the_attempt(attempt: Any, make_spec: Any) -> None:
    failed = failure(attempt(make_spec(dataset={"name": "cifar10"})))

    assert (failed.code, failed.may_pass) == ("dataset", False)
    assert "cifar10" in failed.message
    assert "synthetic" in failed.message


def test_a_full_disk_fails_the_attempt_and_may_pass(attempt: Any, make_spec: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    record = attempt(make_spec(), save=full)

    assert (failure(record).code, failure(record).may_pass, failure(record).step) == ("checkpoint", True, 4)
    assert "No space left on device" in failure(record).message
    assert not record.checkpoints


def test_an_error_of_the_report_is_raised(make_spec: Any, synthetic: ImageDataset) -> None:
    def refuse(_: Any) -> None:
        raise ConnectionError("the receiver is gone")

    with pytest.raises(ConnectionError, match="the receiver is gone"):
        train(make_spec(), synthetic, report=refuse, save=lambda *_: None)


def test_the_dataset_may_be_read_only_and_is_never_written_to(
    attempt: Any, make_spec: Any, synthetic: ImageDataset
) -> None:
    copies: dict[str, Any] = {
        name: array.copy() for name, array in vars(synthetic).items() if isinstance(array, np.ndarray)
    }
    frozen = dataclasses.replace(synthetic, **copies)
    for array in vars(frozen).values():
        if isinstance(array, np.ndarray):
            array.flags.writeable = False

    assert attempt(make_spec(), dataset=frozen).rows == attempt(make_spec()).rows
    assert np.array_equal(frozen.train_images, synthetic.train_images)


@pytest.mark.parametrize("type", ["batch", "group"])
def test_bfloat16_on_a_cpu_trains_close_to_float32(attempt: Any, make_spec: Any, type: str) -> None:
    spec = {"normalization": {"type": type}, "epochs": 1}
    half = attempt(make_spec(**spec, precision="bfloat16"))
    full = attempt(make_spec(**spec))

    assert isinstance(half.events[0], Started)
    assert half.events[0].precision == "bfloat16"
    assert half.rows != full.rows
    assert half.rows[0][3]["train_loss"] == pytest.approx(full.rows[0][3]["train_loss"], rel=0.02)
    assert b'"BF16"' not in half.weights


@pytest.mark.cifar10
def test_resnet20_with_group_normalization_learns_cifar10(cifar10: ImageDataset) -> None:
    spec = TrainingSpec.model_validate(
        {
            "normalization": {"type": "group"},
            "batch_size": 16,
            "epochs": 1,
            "schedule": {"type": "cosine"},
            "dataset": {"train_limit": 4000, "test_limit": 1000},
        }
    )
    rows: list[Metrics] = []
    train(
        spec,
        cifar10,
        report=lambda event: rows.append(event) if isinstance(event, Metrics) else None,
        save=lambda *_: None,
    )

    assert rows[-1].values["test_error"] < 0.8
