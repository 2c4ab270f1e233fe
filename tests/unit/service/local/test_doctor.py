"""`normlab doctor`: what a machine has, and whether it can train a job."""

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from service.cli import main
from service.local import doctor
from service.local.doctor import Finding, examine
from service.settings import Settings

PROBLEM = "torch 2.13.0 is built without CUDA: install a wheel that has it"
TORCH: dict[str, object] = {
    "version": "2.13.0",
    "cuda": None,
    "driver": None,
    "gpus": [],
    "problem": PROBLEM,
    "bfloat16": False,
}
IMAGES = {"found": True, "url": "https://example.org/images.tar.gz", "problem": None}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", data_dir=tmp_path / "data")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The reports of the modules that inspect torch, the dataset and the database."""
    found: dict[str, object] = {doctor.DEVICES: TORCH, doctor.IMAGES: IMAGES, doctor.SCHEMA: None}

    def report(_settings: Settings, module: str, *_arguments: str) -> object:
        answer = found[module]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(doctor, "_report", report)
    return found


def finding(name: str, settings: Settings) -> Finding:
    return next(finding for finding in examine(settings) if finding.name == name)


def test_this_machine_can_train(settings: Settings) -> None:
    findings = examine(settings)
    assert [finding.name for finding in findings if not finding.ok] == []
    assert "not in" in finding("cifar10", settings).detail


def test_torch_that_cannot_be_imported_says_what_to_install(settings: Settings, answers: dict[str, object]) -> None:
    answers[doctor.DEVICES] = doctor._NoReport("ModuleNotFoundError: No module named 'torch'")
    assert finding("torch", settings) == Finding(
        "torch",
        False,
        "cannot be imported (ModuleNotFoundError: No module named 'torch'): pip install 'normlab[worker]'",
    )


def test_damaged_images_are_a_fault_and_missing_ones_are_not(settings: Settings, answers: dict[str, object]) -> None:
    answers[doctor.IMAGES] = {**IMAGES, "problem": "data_batch_1 is damaged"}
    assert finding("cifar10", settings) == Finding("cifar10", False, "data_batch_1 is damaged")
    answers[doctor.IMAGES] = {**IMAGES, "found": False}
    found = finding("cifar10", settings)
    assert (found.ok, found.note) == (True, True)
    assert "downloads it from https://example.org" in found.detail


def test_a_gpu_that_lies_idle_is_pointed_out(settings: Settings, answers: dict[str, object]) -> None:
    answers[doctor.DEVICES] = {**TORCH, "gpus": ["H200"], "bfloat16": True}
    assert "NORMLAB_GPUS_PER_WORKER=1" in finding("gpu", settings).detail
    used = settings.model_copy(update={"gpus_per_worker": 1.0})
    assert finding("gpu", used) == Finding("gpu", True, "H200: trains in bfloat16")


@pytest.mark.parametrize(("able", "precision"), [(True, "bfloat16 where it is faster"), (False, "float32")])
def test_the_precision_of_the_cpu_is_named(
    settings: Settings, answers: dict[str, object], able: bool, precision: str
) -> None:
    answers[doctor.DEVICES] = {**TORCH, "bfloat16": able}
    assert finding("gpu", settings).detail == f"none: training runs on the CPU, in {precision}"


def test_a_gpu_that_is_asked_for_and_not_there_is_a_fault(settings: Settings, answers: dict[str, object]) -> None:
    asked = settings.model_copy(update={"gpus_per_worker": 1.0})
    assert finding("gpu", asked) == Finding(
        "gpu", False, f"none, but NORMLAB_GPUS_PER_WORKER requests GPUs: {PROBLEM}; or unset it"
    )


def test_a_gpu_that_torch_cannot_use_is_explained_where_none_is_asked_for(
    settings: Settings, answers: dict[str, object]
) -> None:
    answers[doctor.DEVICES] = {**TORCH, "driver": "535.183.01"}
    found = finding("gpu", settings)
    assert (found.ok, found.note) == (True, True)
    assert found.detail == f"none: training runs on the CPU, in float32; {PROBLEM}"


def test_the_cuda_that_torch_is_built_for_is_named(settings: Settings, answers: dict[str, object]) -> None:
    assert finding("torch", settings).detail == "2.13.0"
    answers[doctor.DEVICES] = {**TORCH, "cuda": "13.0"}
    assert finding("torch", settings).detail == "2.13.0, for CUDA 13.0"


def test_without_a_compiler_training_is_slower_not_impossible(
    settings: Settings, answers: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert finding("compiler", settings).ok
    assert finding("compiler", settings).note


def test_where_the_files_of_a_private_ray_are_is_told(
    settings: Settings, answers: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/" + "x" * 60)
    assert finding("ray", settings).detail.endswith("private, with its files in /tmp")
    assert finding("ray", settings.model_copy(update={"ray_address": "10.0.0.1:1"})).detail.endswith("at 10.0.0.1:1")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert not finding("ray", settings).ok
    assert "set TMPDIR" in finding("ray", settings).detail


def test_a_full_disk_is_a_fault(
    settings: Settings, answers: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LEAST_DISK", 1 << 62)
    assert not finding("disk", settings).ok


def test_a_home_that_cannot_be_written_is_a_fault(
    settings: Settings, answers: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    found = finding("disk", settings)
    assert not found.ok
    assert found.detail.startswith(f"{settings.home} cannot be written: set NORMLAB_HOME")


def test_a_home_that_may_not_be_looked_into_is_a_fault(
    settings: Settings, answers: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    stat, access = os.stat, os.access
    forbidden = settings.home / "within"

    def refuse(path: Any, *arguments: Any, **options: Any) -> Any:
        if Path(os.fsdecode(path)).is_relative_to(forbidden):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return stat(path, *arguments, **options)

    settings.home.mkdir()
    monkeypatch.setattr("os.stat", refuse)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != settings.home and access(path, mode))
    found = finding("disk", settings.model_copy(update={"home": forbidden}))
    assert (found.ok, "cannot be written" in found.detail) == (False, True)


def test_a_database_of_a_newer_version_is_a_fault_and_an_old_one_is_not(
    settings: Settings, answers: dict[str, object]
) -> None:
    settings.home.mkdir()
    (settings.home / "normlab.db").touch()
    assert "up to date" in finding("database", settings).detail
    answers[doctor.SCHEMA] = "The database is older: run `python -m service.store.migrate`."
    assert finding("database", settings).ok
    answers[doctor.SCHEMA] = "The database was made by a newer normlab."
    assert not finding("database", settings).ok


@pytest.mark.parametrize("url", ["me:secret@127.0.0.1:1/normlab", "127.0.0.1:1/normlab?user=me&password=secret"])
def test_a_database_is_never_shown_with_its_password(settings: Settings, answers: dict[str, object], url: str) -> None:
    elsewhere = Settings.model_validate({"home": settings.home, "database_url": f"postgresql://{url}"})
    answers[doctor.SCHEMA] = doctor._NoReport("connection refused")
    found = finding("database", elsewhere)
    assert found.detail.endswith("127.0.0.1:1/normlab: connection refused")
    assert "secret" not in found.detail


@pytest.mark.parametrize("fault", [False, True])
def test_the_command_tells_people_and_programs(
    settings: Settings,
    answers: dict[str, object],
    fault: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if fault:
        answers[doctor.IMAGES] = {**IMAGES, "problem": "data_batch_1 is damaged"}
    monkeypatch.setattr(sys, "argv", ["normlab", "doctor", "--home", str(settings.home)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == int(fault)
    assert ("missing  data_batch_1 is damaged" in capsys.readouterr().out) is fault
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--json"])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["can_train"] is not fault
