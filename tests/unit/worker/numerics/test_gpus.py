"""A GPU that torch cannot use: the reason and the remedy."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from worker.numerics import gpus
from worker.numerics.gpus import driver_version, gpu_problem
from worker.training.environment import libraries

Machine = Callable[..., None]
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12.2\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    """Describes a machine: the wheel of torch, the driver, and whether CUDA finds a GPU."""

    def describe(*, cuda: str | None, driver: str = "", available: bool = False, visible: str | None = None) -> None:
        path = tmp_path / "version"
        if driver:
            path.write_text(driver)
        monkeypatch.setattr(gpus, "_DRIVER", path)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
        monkeypatch.setattr(torch, "__version__", "2.13.0+cu130" if cuda else "2.13.0+cpu")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        driver_version.cache_clear()
        libraries.cache_clear()

    yield describe
    driver_version.cache_clear()
    libraries.cache_clear()


def test_a_gpu_that_torch_can_use_has_no_problem(machine: Machine) -> None:
    machine(cuda="13.0", driver=OPEN, available=True)
    assert gpu_problem() is None


def test_a_wheel_without_cuda_is_named(machine: Machine) -> None:
    machine(cuda=None, driver=OPEN)
    assert gpu_problem() == (
        "torch 2.13.0+cpu is built without CUDA: install a wheel that has it, such as that of PyPI"
    )


def test_a_missing_driver_is_named_with_the_version_that_is_needed(machine: Machine) -> None:
    machine(cuda="13.0")
    assert driver_version() is None
    assert gpu_problem() == (
        "torch 2.13.0+cu130 is built for CUDA 13.0, and no NVIDIA driver is loaded: install one of version 580 or "
        "newer, or run the container with the NVIDIA Container Toolkit"
    )


def test_a_driver_that_is_too_old_is_named_with_a_wheel_for_it(machine: Machine) -> None:
    machine(cuda="13.0", driver=CLOSED)
    assert driver_version() == "535.183.01"
    assert gpu_problem() == (
        "torch 2.13.0+cu130 is built for CUDA 13.0, which needs driver 580 or newer, but the driver is 535.183.01: "
        "update it, or install a wheel for an older CUDA with pip install torch==2.13.0 --index-url "
        "https://download.pytorch.org/whl/cu126"
    )
    machine(cuda="12.6", driver=CLOSED)
    assert "CUDA finds no GPU" in str(gpu_problem()), "CUDA 12 runs with driver 525"


def test_hidden_gpus_are_named(machine: Machine) -> None:
    machine(cuda="13.0", driver=OPEN, visible="")
    assert gpu_problem() == ("CUDA_VISIBLE_DEVICES is '', which names no GPU that CUDA can use: see nvidia-smi")


def test_a_training_names_what_its_gpu_computes_with(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(cuda=None)
    assert libraries().keys() == {"python", "torch", "numpy", "normlab"}
    machine(cuda="13.0", driver=OPEN)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91300)
    named = libraries()
    assert (named["cuda"], named["cudnn"], named["driver"]) == ("13.0", "91300", "580.65.06")
    assert named["triton"]
