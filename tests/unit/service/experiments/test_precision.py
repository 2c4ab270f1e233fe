"""What the precision `auto` means follows from the devices of all workers, and on CPUs from the speed of the steps."""

import pytest

from service.experiments.precision import by_device, by_speed

CPU, GPU = "cpu", "cuda:0 (NVIDIA H200)"


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ([], None),
        ([(CPU, True)], None),
        ([(CPU, True), (CPU, True)], None),
        ([(CPU, False)], "float32"),
        ([(CPU, True), (CPU, False)], "float32"),
        ([(GPU, True), (GPU, True)], "bfloat16"),
        ([(GPU, True), (GPU, False)], "float32"),
        ([(GPU, True), (CPU, False)], "float32"),
        ([(GPU, True), (CPU, True)], None),
    ],
)
def test_the_devices_decide_unless_all_compute_in_bfloat16_and_some_are_cpus(
    workers: list[tuple[str, bool]], expected: str | None
) -> None:
    found = by_device(workers)
    assert (found and found.precision) == expected


@pytest.mark.parametrize(
    ("float32_s", "precision", "reason"),
    [
        (0.16, "bfloat16", "bfloat16, 1.6 times as fast as float32 here"),
        (0.12, "bfloat16", "bfloat16, 1.2 times as fast as float32 here"),
        (0.11, "float32", "float32, because bfloat16 is only 1.1 times as fast here"),
        (0.01, "float32", "float32, because bfloat16 is only 0.1 times as fast here"),
    ],
)
def test_bfloat16_must_be_clearly_faster(float32_s: float, precision: str, reason: str) -> None:
    found = by_speed({("resnet20", 8): 1}, {("resnet20", 8): {"float32": float32_s, "bfloat16": 0.1}})
    assert (found.precision, found.reason) == (precision, reason)


def test_an_experiment_is_decided_by_its_time_as_a_whole() -> None:
    """A step of 2 images is taken 16 times as often as one of 32: it weighs that much more."""
    steps = {
        ("resnet20", 2): {"float32": 0.01, "bfloat16": 0.01},
        ("resnet20", 32): {"float32": 0.2, "bfloat16": 0.1},
    }
    few = by_speed({("resnet20", 2): 1, ("resnet20", 32): 1}, steps)  # type: ignore[arg-type]
    assert few.reason == "bfloat16, 1.4 times as fast as float32 here"
    many = by_speed({("resnet20", 2): 10, ("resnet20", 32): 1}, steps)  # type: ignore[arg-type]
    assert many.precision == "float32"


def test_the_workloads_that_were_measured_stand_for_the_others() -> None:
    jobs = {("resnet20", 2): 5, ("vgg", 32): 1}
    assert by_speed(jobs, {("vgg", 32): {"float32": 3.0, "bfloat16": 1.0}}).precision == "bfloat16"
