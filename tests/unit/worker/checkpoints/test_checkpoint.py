"""A checkpoint is complete or refused; equal weights give equal bytes."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from worker.checkpoints import checkpoint
from worker.checkpoints.checkpoint import Checkpoint, CheckpointError, load_model, read_checkpoint, write_checkpoint
from worker.events import File
from worker.models import build_model


@pytest.fixture
def taken(attempt: Any, make_spec: Any) -> Checkpoint:
    """A checkpoint after the first of two epochs."""
    checkpoint: Checkpoint = attempt(make_spec(dataset={"train_limit": 16})).checkpoints[0]
    return checkpoint


def test_a_checkpoint_reads_back_as_it_was_written(taken: Checkpoint, tmp_path: Path) -> None:
    write_checkpoint(taken, tmp_path / "new" / "step-1")

    assert read_checkpoint(tmp_path / "new" / "step-1") == taken
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["step-1"]


def test_a_checkpoint_replaces_one_of_the_same_name(taken: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "left over").touch()
    write_checkpoint(taken, tmp_path / "step-1")

    assert {path.name for path in (tmp_path / "step-1").iterdir()} == set(taken.files)


def test_a_full_disk_leaves_no_files_behind(taken: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(taken, tmp_path / "step-1")
    assert not list(tmp_path.iterdir())


def test_the_manifest_describes_the_checkpoint(taken: Checkpoint, make_spec: Any) -> None:
    manifest = json.loads(taken.files["manifest.json"])

    assert manifest["format"] == 1
    assert manifest["spec"] == make_spec(dataset={"train_limit": 16}).model_dump(mode="json")
    assert (manifest["epoch"], manifest["step"]) == (1, 1)
    assert manifest["metrics"] == taken.metrics != {}
    assert manifest["versions"]["torch"] == torch.__version__


def test_the_event_describes_every_file(taken: Checkpoint) -> None:
    assert set(taken.event.files) == {"model.safetensors", "state.pt", "manifest.json"}
    for name, file in taken.event.files.items():
        assert file.size == len(taken.files[name])
    manifest = json.loads(taken.files["manifest.json"])["files"]
    assert {name: File(**file) for name, file in manifest.items()} == {
        name: taken.event.files[name] for name in ("model.safetensors", "state.pt")
    }


def test_equal_weights_are_equal_bytes_whatever_their_memory_format(make_spec: Any) -> None:
    spec = make_spec()

    def saved(memory_format: torch.memory_format) -> bytes:
        model = build_model(spec.model, spec.normalization, seed=0)
        model.to(memory_format=memory_format)  # type: ignore[call-overload]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        captured = checkpoint.capture(spec, model, optimizer, None, checkpoint.Position(), {})
        return captured.files["model.safetensors"]

    assert saved(torch.contiguous_format) == saved(torch.channels_last) == saved(torch.contiguous_format)


def test_the_weights_are_a_plain_safetensors_file(taken: Checkpoint, make_spec: Any) -> None:
    spec = make_spec()
    tensors = safetensors.torch.load(taken.files["model.safetensors"])

    assert set(tensors) == set(build_model(spec.model, spec.normalization, seed=0).state_dict())


def test_the_state_contains_no_code(taken: Checkpoint) -> None:
    state = torch.load(io.BytesIO(taken.files["state.pt"]), weights_only=True)

    assert set(state) == {"optimizer", "position"}


def cut(files: dict[str, bytes]) -> None:
    files["model.safetensors"] = files["model.safetensors"][:-1]


def flip(files: dict[str, bytes]) -> None:
    files["state.pt"] = files["state.pt"][:-1] + bytes([files["state.pt"][-1] ^ 1])


def garble(files: dict[str, bytes]) -> None:
    files["manifest.json"] = files["manifest.json"][:-1]


def age(files: dict[str, bytes]) -> None:
    files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | {"format": 99}).encode()


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (cut, "model.safetensors is damaged"),
        (flip, "state.pt is damaged"),
        (garble, "manifest.json is not JSON"),
        (age, "has format 99"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    taken: Checkpoint, attempt: Any, make_spec: Any, tmp_path: Path, break_it: Callable[[Any], None], says: str
) -> None:
    break_it(taken.files)
    write_checkpoint(taken, tmp_path / "step-1")

    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(tmp_path / "step-1")
    failure = attempt(make_spec(dataset={"train_limit": 16}), resume=taken).finished.failure
    assert failure.code == "checkpoint"
    assert says in failure.message


def test_an_incomplete_checkpoint_is_refused(taken: Checkpoint, tmp_path: Path) -> None:
    write_checkpoint(taken, tmp_path / "step-1")
    (tmp_path / "step-1" / "state.pt").unlink()

    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read"):
        read_checkpoint(tmp_path / "step-1")
    with pytest.raises(CheckpointError, match=r"has no 'state\.pt'"):
        Checkpoint.from_files({name: taken.files[name] for name in ("model.safetensors", "manifest.json")})


def test_a_model_is_loaded_from_its_weights_alone(taken: Checkpoint, make_spec: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(taken.files["model.safetensors"])
    model = load_model(path, make_spec(seed=99))

    assert not model.training
    for name, tensor in safetensors.torch.load(taken.files["model.safetensors"]).items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_weights_that_do_not_fit_are_refused(taken: Checkpoint, make_spec: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(path, make_spec())
    path.write_bytes(b"not it")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load_model(path, make_spec())
    path.write_bytes(taken.files["model.safetensors"])
    with pytest.raises(CheckpointError, match="is of another model or normalization"):
        load_model(path, make_spec(model="resnet56"))
