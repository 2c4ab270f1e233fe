"""A job on CIFAR-10, from the POST to a downloaded checkpoint that has the reported error."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.checkpoints.checkpoint import load_model
from worker.data.batches import TrainingData
from worker.data.datasets import load
from worker.spec import TrainingSpec
from worker.training.evaluation import evaluate

DATA_DIR = os.environ.get("NORMLAB_DATA_DIR", "")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cifar10,
    pytest.mark.skipif(
        not Path(DATA_DIR, "cifar-10-batches-py").is_dir() or not DATA_DIR,
        reason="CIFAR-10 was not found: set NORMLAB_DATA_DIR to the folder that contains cifar-10-batches-py",
    ),
]


def test_group_normalization_learns_cifar10_and_its_best_checkpoint_has_the_reported_error(
    start_service: Callable[..., Any], tmp_path: Path
) -> None:
    service = start_service(cpus_per_worker=2)
    job = service.client.submit(
        {
            "model": "resnet20",
            "normalization": {"type": "group", "num_groups": 8},
            "batch_size": 32,
            "epochs": 5,
            "dataset": {"name": "cifar10", "train_limit": 10_000, "test_limit": 2_000},
            "schedule": {"type": "cosine"},
        }
    )["id"]
    ended = service.client.wait(job)
    assert ended["status"] == "succeeded", ended["error"]

    best = service.client.checkpoint((job, "best"))
    assert best["metrics"]["test_error"] == ended["summary"]["test_error"]["best"] < 0.6
    path = service.client.download((job, "best"), "model.safetensors", tmp_path / "best.safetensors")

    spec = TrainingSpec.model_validate(ended["spec"])
    data = TrainingData(spec, load("cifar10", Path(DATA_DIR), lambda message: None))
    assert evaluate(load_model(path, spec), data).error == best["metrics"]["test_error"]
