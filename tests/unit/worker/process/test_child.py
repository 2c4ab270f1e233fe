"""The training process on a GPU: its share of the memory, and what it keeps after an attempt."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from worker.events import Finished
from worker.process import child
from worker.process.child import Child
from worker.process.messages import Reported, Start
from worker.training.loop import train as whole
from worker.training.static_step import StaticStep
from worker.training.step_cache import StepCache


class Wire:
    """The connection of a process, whose messages are kept."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of torch.cuda that concern memory, on a machine that pretends to have a GPU of 80 GB."""
    made: list[Any] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: made.append("empty"))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: made.append(share))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 10**9))
    monkeypatch.setattr(child, "gpu_problem", lambda: None)
    monkeypatch.setattr(child, "warm_up", lambda device: made.append(device))
    return made


@pytest.mark.parametrize(
    ("share", "limits", "kept"),
    [(1.0, [], 8 * 10**9), (0.5, [0.5], 4 * 10**9), (0.1, [0.1], 8 * 10**8)],
)
def test_a_process_that_shares_a_gpu_is_limited_to_its_part(
    calls: list[Any], share: float, limits: list[float], kept: int
) -> None:
    process = Child(Wire())  # type: ignore[arg-type]
    process._prepare(share)

    assert calls == [*limits, "cuda:0"]
    assert process._steps is not None
    assert process._steps.max_bytes == pytest.approx(kept)


@pytest.fixture
def train(calls: list[Any], make_spec: Any, synthetic: Any) -> Callable[..., Finished]:
    """Trains an attempt on the CPU in a process that takes it for a GPU; returns how it ended."""

    def run(steps: StepCache) -> Finished:
        wire = Wire()
        process = Child(wire)  # type: ignore[arg-type]
        process._device, process._steps = "a GPU", steps
        process._join = None  # type: ignore[assignment]
        attempt = Start("one", make_spec(epochs=1).model_dump(mode="json"), synthetic, None)
        process._lease_s = float("inf")
        process._train(attempt)
        last = wire.sent[-1]
        assert isinstance(last, Reported)
        assert isinstance(last.event, Finished)
        return last.event

    return run


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "train", lambda *given, **named: whole(*given, **named | {"device": "cpu"}))


def test_the_memory_of_an_attempt_is_returned_and_its_step_is_kept(train: Any, calls: list[Any]) -> None:
    steps = StepCache(1 << 30)

    assert train(steps).outcome == "succeeded"
    assert calls == ["empty"]
    assert len(steps._steps) == 1


def test_an_attempt_without_memory_releases_the_steps_of_others(
    train: Any, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(step: StaticStep) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    steps = StepCache(1 << 30)
    train(steps)
    monkeypatch.setattr(StaticStep, "run", run)
    ended = train(steps)

    assert ended.failure is not None
    assert ended.failure.code == "out_of_memory"
    assert calls == ["empty", "empty"]
    assert not steps._steps
