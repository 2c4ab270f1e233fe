"""A training step is measured in both precisions, in a bounded number of steps."""

from typing import Any

import pytest
import torch

from worker.models import build_model
from worker.training import comparison
from worker.training.comparison import MAX_BATCH_SIZE, ROUNDS, step_seconds


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, torch.dtype]]:
    """The batch size and the dtype of the activations of each step."""
    taken: list[tuple[int, torch.dtype]] = []

    def watched(*arguments: Any, **options: Any) -> torch.nn.Module:
        network = build_model(*arguments, **options)
        network.register_forward_hook(lambda _module, _inputs, logits: taken.append((len(logits), logits.dtype)))
        return network

    monkeypatch.setattr(comparison, "build_model", watched)
    return taken


def test_the_precisions_take_turns(steps: list[tuple[int, torch.dtype]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "LIMIT_S", float("inf"))
    seconds = step_seconds("resnet20", 2)
    assert set(seconds) == {"float32", "bfloat16"}
    assert min(seconds.values()) > 0
    assert steps == [(2, torch.float32), (2, torch.bfloat16)] * (1 + ROUNDS)


def test_a_slow_model_is_measured_once_and_large_batches_as_a_smaller_one(
    steps: list[tuple[int, torch.dtype]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "LIMIT_S", 0.0)
    assert min(step_seconds("resnet20", 10 * MAX_BATCH_SIZE).values()) > 0
    assert steps == [(MAX_BATCH_SIZE, torch.float32), (MAX_BATCH_SIZE, torch.bfloat16)] * 2


@pytest.mark.parametrize(("durations", "expected"), [([9, 8, 3, 4, 2, 5], 2), ([9, 8, 1, 4, 2, 5], 1)])
def test_the_fastest_step_counts(durations: list[float], expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        """Each step in float32 takes the next duration, each in bfloat16 one second."""

        now, step = 0.0, 0

        def __call__(self) -> float:
            return self.now

        def forward(self, _network: Any, _images: Any, logits: torch.Tensor) -> None:
            float32 = logits.dtype == torch.float32
            self.now += durations[self.step] if float32 else 1.0
            self.step += float32

    clock = Clock()

    def watched(*arguments: Any, **options: Any) -> torch.nn.Module:
        network = build_model(*arguments, **options)
        network.register_forward_hook(clock.forward)
        return network

    monkeypatch.setattr(comparison, "build_model", watched)
    monkeypatch.setattr(comparison, "LIMIT_S", float("inf"))
    monkeypatch.setattr("time.perf_counter", clock)
    assert step_seconds("resnet20", 1) == {"float32": expected, "bfloat16": 1.0}
