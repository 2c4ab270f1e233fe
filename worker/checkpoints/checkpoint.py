"""Capturing a training as a checkpoint, and restoring it.

A checkpoint has three files: `model.safetensors` (weights and running averages), `state.pt` (the state of the optimizer
and the position in the training, loaded with `weights_only=True`) and `manifest.json` (the spec, the step, the metrics,
and the sha256 of the other two files). With `ema`, `model.safetensors` has the averages, which are evaluated, and
`state.pt` the weights that the training continues with.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from worker.events import CheckpointTaken, File, Precision
from worker.folders import sync_folder
from worker.models import build_model
from worker.spec import TrainingSpec

FORMAT = 1
NAMED = 3
"""Tensors that an error names at most of each kind."""
MODEL, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint is damaged, incomplete, or of another training; the message names the file and a remedy."""


class CheckpointNotWritten(CheckpointError):
    """A checkpoint could not be written, for lack of disk space or permission; another attempt may succeed."""


class Stateful(Protocol):
    """An optimizer whose state is that of an optimizer of torch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Load a state in place."""


class Average(Protocol):
    """The average of the weights of a network."""

    def reset(self) -> None:
        """Begin at the present weights of the network."""

    def in_place(self) -> AbstractContextManager[None]:
        """Put the average into the network; its own weights return at the end."""


@dataclass(frozen=True)
class Checkpoint:
    """The files of a training at one step.

    Attributes:
        epoch: Number of completed epochs.
        step: Number of completed optimizer steps.
        metrics: Evaluation metrics of exactly these weights; empty within an epoch.
        files: Content of each file, by name.
    """

    epoch: int
    step: int
    metrics: dict[str, float]
    files: dict[str, bytes]

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Self:
        """Return the checkpoint with the given files.

        Raises:
            CheckpointError: If it is incomplete or damaged.
        """
        verify(cls(0, 0, {}, dict(files)))
        manifest = json.loads(files[MANIFEST])
        return cls(manifest["epoch"], manifest["step"], manifest["metrics"], dict(files))

    @cached_property
    def event(self) -> CheckpointTaken:
        """The event that reports this checkpoint."""
        files = {name: _describe(content) for name, content in self.files.items()}
        return CheckpointTaken(epoch=self.epoch, step=self.step, metrics=self.metrics, files=files)

    @property
    def precision(self) -> Precision | None:
        """The precision that the training computes in; None in a checkpoint of a version that did not record it.

        Raises:
            CheckpointError: If it is incomplete or damaged.
        """
        verify(self)
        precision: Precision | None = json.loads(self.files[MANIFEST]).get("precision")
        return precision


@dataclass
class Window:
    """Sums over the training images since the last row of train metrics."""

    images: int = 0
    loss: float = 0.0
    errors: int = 0


@dataclass
class Position:
    """The position of a training, which is its state apart from weights and optimizer.

    Attributes:
        epoch: Number of completed epochs.
        step_in_epoch: Number of completed steps of the current epoch.
        window: Sums for the next row of train metrics, of this worker; in a checkpoint, of rank 0.
        metrics: Metrics of the latest evaluation.
        other_windows: In a checkpoint, the windows of the other ranks, in their order.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    window: Window = field(default_factory=Window)
    metrics: dict[str, float] = field(default_factory=dict)
    other_windows: list[Window] = field(default_factory=list)


def capture(
    spec: TrainingSpec,
    model: nn.Module,
    optimizer: Stateful,
    average: Average | None,
    position: Position,
    versions: Mapping[str, str],
    precision: Precision = "float32",
) -> Checkpoint:
    """Return a checkpoint of the training, in memory. Equal weights give a byte-identical `model.safetensors`."""
    step = position.epoch * spec.steps_per_epoch + position.step_in_epoch
    state = {"optimizer": optimizer.state_dict(), "position": asdict(position)}
    if average is not None:
        state["weights"] = _weights(model)
    content = io.BytesIO()
    torch.save(state, content)
    metrics = dict(position.metrics) if position.step_in_epoch == 0 else {}
    with average.in_place() if average else nullcontext():
        files = {MODEL: safetensors.torch.save(_weights(model)), STATE: content.getvalue()}
    manifest = {
        "format": FORMAT,
        "spec": spec.model_dump(mode="json"),
        "precision": precision,
        "epoch": position.epoch,
        "step": step,
        "metrics": metrics,
        "versions": dict(versions),
        "files": {name: _describe(content).model_dump() for name, content in files.items()},
    }
    files[MANIFEST] = json.dumps(manifest, indent=2).encode()
    return Checkpoint(position.epoch, step, metrics, files)


def restore(
    checkpoint: Checkpoint,
    spec: TrainingSpec,
    model: nn.Module,
    optimizer: Stateful,
    average: Average | None,
    rank: int = 0,
) -> Position:
    """Restore a training in place from a checkpoint.

    Args:
        checkpoint: The checkpoint.
        spec: The spec; it may differ from that of the checkpoint in `checkpoint` and `telemetry` only, and have more
            epochs if its schedule allows it.
        model: The model that the weights are loaded into.
        optimizer: The optimizer that the state is loaded into.
        average: The average of the weights of the model, if the spec has one.
        rank: Rank of this worker.

    Returns:
        The position of the training on this worker.

    Raises:
        CheckpointError: If the checkpoint is damaged, or of another training.
    """
    verify(checkpoint)
    saved = TrainingSpec.model_validate(json.loads(checkpoint.files[MANIFEST])["spec"])
    # How often checkpoints are taken and telemetry is measured does not affect the weights.
    free = {"checkpoint", "telemetry"}
    if spec.schedule.fixed_to_length is None and saved.epochs <= spec.epochs:
        free.add("epochs")
    if differing := [
        name for name in TrainingSpec.model_fields if name not in free and getattr(saved, name) != getattr(spec, name)
    ]:
        raise CheckpointError(
            f"the checkpoint at step {checkpoint.step} is of another training: {', '.join(differing)} differ; "
            "resume with the spec in its manifest.json"
        )
    device = next(model.parameters()).device
    _load_weights(model, checkpoint.files[MODEL], MODEL)
    state = torch.load(io.BytesIO(checkpoint.files[STATE]), map_location=device, weights_only=True)
    if average is not None:
        average.reset()
        model.load_state_dict(state["weights"])
    optimizer.load_state_dict(state["optimizer"])
    position = state["position"]
    windows = [Window(**window) for window in (position["window"], *position.get("other_windows", ()))]
    return Position(**{**position, "window": windows[rank], "other_windows": []})


def begin_with(checkpoint: Checkpoint | None, name: str, model: nn.Module, average: Average | None) -> None:
    """Load the weights of a checkpoint, which may be of another training, as the initial ones.

    Args:
        checkpoint: The checkpoint. Of its training, neither the optimizer nor the position is used.
        name: The id of the checkpoint, for error messages.
        model: The model that the weights are loaded into.
        average: The average of the weights of the model, if the training has one; it begins at these weights.

    Raises:
        CheckpointError: If the checkpoint is missing or damaged, or does not fit the model; the message names what does
            not fit.
    """
    if checkpoint is None:
        raise CheckpointError(f"init_from is {name}, but the training was not given that checkpoint")
    verify(checkpoint)
    weights = safetensors.torch.load(checkpoint.files[MODEL])
    if misfits := _misfits(model.state_dict(), weights):
        raise CheckpointError(
            f"the checkpoint {name} of init_from does not fit this model and normalization: {misfits}; give one that "
            "was trained with the same"
        )
    model.load_state_dict(weights)
    if average is not None:
        average.reset()


def verify(checkpoint: Checkpoint) -> None:
    """Check that every file exists and has the size and sha256 given in the manifest.

    Raises:
        CheckpointError: If a file is missing or differs.
    """
    try:
        manifest = json.loads(checkpoint.files[MANIFEST])
        if manifest["format"] != FORMAT:
            raise CheckpointError(
                f"{MANIFEST} has format {manifest['format']!r}, but this version reads format {FORMAT}: "
                "use the version of normlab that wrote it"
            )
        for name in (MODEL, STATE):
            expected, found = File.model_validate(manifest["files"][name]), _describe(checkpoint.files[name])
            if found != expected:
                raise CheckpointError(
                    f"{name} is damaged: {found.size} bytes with sha256 {found.sha256}, but {MANIFEST} gives "
                    f"{expected.size} bytes with {expected.sha256}; use another checkpoint"
                )
    except KeyError as error:
        raise CheckpointError(f"the checkpoint has no {error}: use another one") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{MANIFEST} is not JSON ({error}): use another checkpoint") from error


def write_checkpoint(checkpoint: Checkpoint, directory: Path) -> None:
    """Write the files to `directory`, which is created or replaced atomically once they are on the disk."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    try:
        for name, content in checkpoint.files.items():
            with (scratch / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(scratch)
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(scratch, directory)
        sync_folder(directory.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read and verify the checkpoint in `directory`.

    Raises:
        CheckpointError: If it cannot be read, is incomplete or is damaged.
    """
    try:
        files = {name: (directory / name).read_bytes() for name in (MODEL, STATE, MANIFEST)}
    except OSError as error:
        raise CheckpointError(
            f"{error.filename} cannot be read ({error.strerror}): give the folder of a checkpoint"
        ) from error
    return Checkpoint.from_files(files)


def load_model(path: Path, spec: TrainingSpec) -> nn.Module:
    """Return the network of `spec` with the weights of a `model.safetensors`, in evaluation mode on the CPU.

    Args:
        path: The `model.safetensors` file.
        spec: The spec of the network.

    Raises:
        CheckpointError: If the file cannot be read, or has the weights of another network.
    """
    model = build_model(spec.model, spec.normalization, seed=spec.seed)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): give a {MODEL}") from error
    _load_weights(model, content, str(path))
    return model.eval()


def network_of(checkpoint: Checkpoint) -> tuple[TrainingSpec, nn.Module]:
    """Return the spec of a checkpoint, and its network with its weights, in evaluation mode on the CPU.

    Raises:
        CheckpointError: If the checkpoint is damaged.
    """
    verify(checkpoint)
    spec = TrainingSpec.model_validate(json.loads(checkpoint.files[MANIFEST])["spec"])
    model = build_model(spec.model, spec.normalization, seed=spec.seed)
    _load_weights(model, checkpoint.files[MODEL], MODEL)
    return spec, model.eval()


def _load_weights(model: nn.Module, content: bytes, name: str) -> None:
    try:
        model.load_state_dict(safetensors.torch.load(content))
    except SafetensorError as error:
        raise CheckpointError(f"{name} is not a safetensors file ({error}): use another checkpoint") from error
    except RuntimeError as error:
        raise CheckpointError(f"{name} is of another model or normalization: {error}") from error


def _misfits(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Name the tensors that are missing, superfluous or of another shape; empty if all fit."""
    common = [name for name in expected if name in found]
    groups = {
        "it lacks": [name for name in expected if name not in found],
        "it also has": sorted(name for name in found if name not in expected),
        "of another shape are": [name for name in common if found[name].shape != expected[name].shape],
    }
    return "; ".join(
        f"{what} {', '.join(names[:NAMED])}{f' and {len(names) - NAMED} more' if len(names) > NAMED else ''}"
        for what, names in groups.items()
        if names
    )


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}


def _describe(content: bytes) -> File:
    return File(size=len(content), sha256=hashlib.sha256(content).hexdigest())
