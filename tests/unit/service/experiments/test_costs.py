"""The estimated cost of jobs comes from similar jobs: same model, nearest batch size, same kind of device."""

from typing import Any

import pytest

from service.experiments.costs import (
    NOMINAL_SPEEDS,
    device_kind,
    estimate,
    expected_seconds,
    expected_speed,
    seconds_left,
)
from service.experiments.runs import Speed
from worker.architecture import ARCHITECTURES
from worker.spec import TrainingSpec


def spec(**fields: Any) -> TrainingSpec:
    given: dict[str, Any] = {"normalization": {"type": "batch"}, "batch_size": 8, "epochs": 2, "model": "vgg"}
    given["dataset"] = {"test_limit": 3000}
    return TrainingSpec.model_validate(given | fields)


def test_a_training_takes_the_time_of_its_steps_and_of_its_evaluations() -> None:
    assert seconds_left(spec(), 100, 300) == 2 * 50_000 / 100 + 2 * 3000 / 300
    held_out = {"train_limit": 100, "test_limit": 30, "holdout": 20}
    assert seconds_left(spec(dataset=held_out, batch_size=32), 1, 1) == 2 * 64 + 2 * (20 + 30)


@pytest.mark.parametrize(
    ("step", "evaluations", "left"),
    [
        (0, 0, 1000 + 20),
        (6249, 0, 500 + 0.08 + 20),
        (6250, 0, 500 + 20),
        (6250, 1, 500 + 10),
        (12_500, 1, 10),
        (12_500, 2, 0),
        (3125, 2, 750 + 20),
    ],
    ids=[
        "begin",
        "before an evaluation",
        "in it",
        "after it",
        "in the last one",
        "end",
        "resumed from an earlier step",
    ],
)
def test_what_is_done_is_not_done_again(step: int, evaluations: int, left: float) -> None:
    assert seconds_left(spec(), 100, 300, step=step, evaluations=evaluations) == pytest.approx(left)


def test_an_evaluation_that_was_not_measured_is_a_forward_pass() -> None:
    assert seconds_left(spec(), 100) == seconds_left(spec(), 100, 300)


def test_evaluations_are_as_fast_as_those_that_were_measured() -> None:
    speeds = [Speed("vgg", 8, "cpu", 10, 50), Speed("vgg", 2, "cpu", 10, 70), Speed("vgg", 8, "cpu", 10)]
    assert expected_speed(spec(num_workers=2), speeds) == (20, 120)
    assert estimate([spec()], speeds[:1], slots=1).job_s == (10_000 + 2 * 3000 / 50,)


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(2, 10.0), (4, 10.0), (8, 25.0), (16, 25.0), (32, 40.0), (64, 40.0)]
)
def test_the_nearest_batch_size_is_nearest_as_a_ratio(batch_size: int, expected: float) -> None:
    speeds = [Speed("vgg", 2, "cpu", 10), Speed("vgg", 8, "cpu", 20), Speed("vgg", 8, "cpu", 30)]
    speeds += [Speed("vgg", 40, "cpu", 40), Speed("resnet20", batch_size, "cpu", 1)]
    assert expected_speed(spec(batch_size=batch_size), speeds) == (expected, None)


def test_a_sum_is_spread_over_the_slots_but_is_never_shorter_than_one_job() -> None:
    speeds = [Speed("vgg", 8, "cpu", 100)]
    found = estimate([spec(), spec(), spec()], speeds, slots=2)
    assert found.job_s == (1020, 1020, 1020)
    assert (found.device_s, found.elapsed_s) == (3060, 1530)
    assert estimate([spec()], speeds, slots=4).elapsed_s == 1020
    assert estimate([spec()], speeds, slots=None).elapsed_s is None
    assert "1 jobs on cpu" in found.basis


def test_several_workers_are_as_much_faster_and_are_all_paid_for() -> None:
    found = estimate([spec(num_workers=4), spec()], [Speed("vgg", 8, "cpu", 100)], slots=4)
    assert found.job_s == (seconds_left(spec(num_workers=4), 400), 1020)
    assert found.device_s == pytest.approx(2040, rel=1e-3)
    assert found.elapsed_s == 1020


def test_only_the_newest_kind_of_device_counts() -> None:
    speeds = [Speed("vgg", 8, "cuda:1 (H200)", 100), Speed("vgg", 8, "cuda:0 (H200)", 300), Speed("vgg", 8, "cpu", 1)]
    found = estimate([spec()], speeds, slots=1)
    assert found.device_s == 510
    assert "2 jobs on H200" in found.basis


def test_a_model_that_was_never_trained_has_a_nominal_speed_and_the_sentence_says_so() -> None:
    nothing = estimate([spec(batch_size=32), spec(batch_size=2)], [], slots=2)
    assert nothing.job_s == (seconds_left(spec(batch_size=32), 40), seconds_left(spec(batch_size=2), 12))
    assert nothing.device_s == sum(nothing.job_s)
    assert nothing.basis == (
        "Estimated from a nominal speed of one CPU core, because vgg has not been trained here yet."
    )
    partly = estimate(
        [spec(), spec(model="resnet20", batch_size=64), spec(model="resnet56")], [Speed("vgg", 8, "cpu", 100)], slots=1
    )
    assert partly.job_s[:2] == (1020, seconds_left(spec(model="resnet20", batch_size=64), 200))
    assert partly.device_s == partly.elapsed_s == sum(partly.job_s)
    assert "Based on the speed of 1 jobs on cpu" in partly.basis
    assert "because resnet20 and resnet56 have not been trained here yet" in partly.basis


def test_only_measured_speeds_say_when_a_waiting_job_starts() -> None:
    assert expected_seconds([spec(), spec(model="resnet20")], [Speed("vgg", 8, "cpu", 100)]) == [1020, None]
    assert expected_seconds([spec()], []) == [None]


def test_every_model_has_a_nominal_speed_below_a_measured_one() -> None:
    assert {speed.model for speed in NOMINAL_SPEEDS} == set(ARCHITECTURES)
    # The benchmark of one core: images/s of resnet20 with group at batch 2 and 32.
    measured = {2: 344 / 2, 32: 754 / 2}
    assert all(speed.images_per_s < measured[speed.batch_size] for speed in NOMINAL_SPEEDS if speed.model == "resnet20")


@pytest.mark.parametrize(
    ("device", "kind"),
    [("cpu", "cpu"), ("cuda:0 (NVIDIA H200)", "NVIDIA H200"), ("cuda (A (B))", "A (B)"), ("x:1", "x:1")],
)
def test_devices_of_one_kind_are_alike(device: str, kind: str) -> None:
    assert device_kind(device) == kind
