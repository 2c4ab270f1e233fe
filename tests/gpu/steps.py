"""Steps a second of a training, eager and as a captured CUDA graph, and whether both compute the same bits.

python -m tests.gpu.steps --json steps.json [--device cuda|cpu]
"""

import argparse
import json
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from worker.data import datasets
from worker.data.batches import Batch, TrainingData
from worker.data.datasets import ImageDataset
from worker.numerics.precision import Precision, numeric_settings
from worker.spec import TrainingSpec
from worker.training.static_step import StaticStep

SETTINGS = (
    ("resnet20", "group", 2),
    ("resnet20", "group", 8),
    ("resnet20", "group", 32),
    ("resnet20", "group", 128),
    ("resnet20", "batch", 2),
    ("resnet20", "none", 2),
    ("resnet18", "group", 512),
)
COMPARED = 20
RATE = 0.05


def specification(model: str, normalization: str, batch: int, *, deterministic: bool) -> TrainingSpec:
    return TrainingSpec.model_validate(
        {
            "model": model,
            "normalization": {"type": normalization},
            "batch_size": batch,
            "dataset": {"name": "synthetic"},
            "deterministic": deterministic,
        }
    )


def take(step: StaticStep, batches: Sequence[Batch]) -> list[Any]:
    """Take a step with each batch; return what they computed."""
    found = []
    remaining = iter(batches)
    while chunk := list(islice(remaining, step.num_slots)):
        step.fill(chunk, [RATE] * len(chunk))
        for _ in chunk:
            step.run()
        found += step.results()
    return found


def are_equal(spec: TrainingSpec, device: torch.device, precision: Precision, batches: Sequence[Batch]) -> bool:
    """Return whether a captured step leaves the bits of an eager one."""
    with numeric_settings(spec, device):
        eager, captured = StaticStep(spec, device, precision), StaticStep(spec, device, precision)
        captured.capture()
        losses = [take(step, batches) for step in (eager, captured)]
        states = [list(step.state()) for step in (eager, captured)]
    return losses[0] == losses[1] and all(map(torch.equal, *states))


def steps_per_second(step: StaticStep, batches: Sequence[Batch], seconds: float) -> float:
    """Return the steps of a second, with the copies of their batches and of their results."""
    take(step, batches)
    count, began, elapsed = 0, time.perf_counter(), 0.0
    while not count or elapsed < seconds:
        count += len(take(step, batches))
        elapsed = time.perf_counter() - began
    return count / elapsed


def measure(
    setting: tuple[str, str, int], dataset: ImageDataset, device: torch.device, seconds: float
) -> dict[str, Any]:
    model, normalization, batch = setting
    precision: Precision = "bfloat16" if device.type == "cuda" else "float32"
    spec = specification(model, normalization, batch, deterministic=False)
    data = TrainingData(spec, dataset, device=device)
    count = COMPARED if device.type == "cuda" else 2
    batches = [batch for epoch in range(1, count + 1) for batch in islice(data.epoch_batches(epoch), count)][:count]
    with numeric_settings(spec, device):
        step = StaticStep(spec, device, precision)
        eager = steps_per_second(step, batches, seconds)
        captured = None
        if step.is_capturable:
            step.capture()
            captured = steps_per_second(step, batches, seconds)
    equal = None
    if captured is not None:
        repeatable = specification(model, normalization, batch, deterministic=True)
        equal = are_equal(repeatable, device, precision, batches)
    return {
        "model": model,
        "normalization": normalization,
        "precision": precision,
        "batch": batch,
        "eager": eager,
        "captured": captured,
        "equal": equal,
        "compared": len(batches),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    gpu = device.type == "cuda"
    dataset = datasets.synthetic()
    rows = [measure(setting, dataset, device, 2.0 if gpu else 0.0) for setting in SETTINGS[: None if gpu else 1]]
    arguments.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
