"""Fixtures: small trainings on the synthetic dataset, on one thread."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.worker.distributed.groups import Team
from worker.checkpoints.checkpoint import Checkpoint
from worker.data import datasets
from worker.data.datasets import ImageDataset
from worker.events import CheckpointTaken, Event, Finished, Metrics, Precision, StopRequest
from worker.spec import TrainingSpec
from worker.training.loop import train


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, so that sums have the same order on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def synthetic() -> ImageDataset:
    """The synthetic dataset."""
    return datasets.synthetic()


@pytest.fixture(scope="session")
def cifar10() -> ImageDataset:
    """CIFAR-10, or skip the test."""
    data_dir = Path(os.environ.get("NORMLAB_DATA_DIR", "/nonexistent"))
    if not (data_dir / datasets.CIFAR10.folder).is_dir():
        pytest.skip(f"CIFAR-10 is not in NORMLAB_DATA_DIR ({data_dir}): set it to the folder that holds it")
    return datasets.load("cifar10", data_dir)


@pytest.fixture
def make_spec() -> Callable[..., TrainingSpec]:
    """Makes specs of 2 epochs of 4 steps on 64 synthetic images, with the given fields."""

    def make(**given: Any) -> TrainingSpec:
        dataset = {"name": "synthetic", "train_limit": 64, "test_limit": 50} | given.pop("dataset", {})
        return TrainingSpec.model_validate_json(
            json.dumps(
                {"normalization": {"type": "group"}, "batch_size": 16, "epochs": 2, "seed": 7, "dataset": dataset}
                | given
            )
        )

    return make


@dataclass
class Record:
    """The events and the checkpoints of an attempt, in order."""

    events: list[Event] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    @property
    def finished(self) -> Finished:
        """The last event."""
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last

    @property
    def types(self) -> list[str]:
        """The types of the events."""
        return [event.kind if isinstance(event, Metrics) else event.type for event in self.events]

    @property
    def rows(self) -> list[tuple[str, int, int, dict[str, float]]]:
        """The rows of metrics without the throughput."""
        return [
            (e.kind, e.epoch, e.step, {name: value for name, value in e.values.items() if name != "images_per_s"})
            for e in self.events
            if isinstance(e, Metrics)
        ]

    @property
    def weights(self) -> bytes:
        """The weights of the last checkpoint."""
        return self.checkpoints[-1].files["model.safetensors"]

    def at_step(self, step: int) -> Checkpoint:
        """The checkpoint taken at `step`."""
        return next(checkpoint for checkpoint in self.checkpoints if checkpoint.step == step)


@pytest.fixture
def attempt(synthetic: ImageDataset) -> Callable[..., Record]:
    """Runs an attempt on the synthetic dataset; after `stop_at` calls of `control`, `stop` is requested."""

    def run(
        spec: TrainingSpec,
        *,
        resume: Checkpoint | None = None,
        initial: Checkpoint | None = None,
        precision: Precision | None = None,
        stop: StopRequest | None = None,
        stop_at: int = 0,
        dataset: ImageDataset = synthetic,
        save: Callable[[CheckpointTaken, Checkpoint], None] | None = None,
    ) -> Record:
        record, asked = Record(), 0

        def keep(event: CheckpointTaken, checkpoint: Checkpoint) -> None:
            if save is not None:
                save(event, checkpoint)
            record.events.append(event)
            record.checkpoints.append(checkpoint)

        def control() -> StopRequest | None:
            nonlocal asked
            asked += 1
            return stop if asked > stop_at else None

        finished = train(
            spec,
            dataset,
            report=record.events.append,
            save=keep,
            control=control,
            resume=resume,
            initial=initial,
            precision=precision,
        )
        assert finished is record.events[-1]
        return record

    return run


@pytest.fixture(scope="session")
def team() -> Iterator[Team]:
    """Three processes that can act as the workers of a job."""
    team = Team(3)
    yield team
    team.close()
