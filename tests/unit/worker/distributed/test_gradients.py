"""Gradients are averaged in the memory that the optimizer reads, with one copy for each bucket."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from worker.distributed import gradients
from worker.distributed.gradients import GradientAverage
from worker.training.static_step import StaticStep

WORKERS = 2


class Operations(TorchDispatchMode):
    """Counts the operations of torch within its context."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **kwargs or {})


@pytest.fixture
def reduced(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What was reduced, in order, with workers that all compute the same."""
    found: list[Tensor] = []

    class Work:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

        def wait(self) -> None:
            self.tensor.mul_(WORKERS)

    def all_reduce(tensor: Tensor, *, async_op: bool) -> Work:
        assert async_op
        found.append(tensor)
        return Work(tensor)

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    return found


@pytest.fixture
def step(make_spec: Callable[..., Any]) -> StaticStep:
    return StaticStep(make_spec(), torch.device("cpu"), "float32")


def average(step: StaticStep) -> GradientAverage:
    memory = step.optimizer
    return GradientAverage(step.parameters, memory.gradients, memory.gradient_views, WORKERS, nullcontext)


def backward(step: StaticStep) -> tuple[Tensor, ...]:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad(F.cross_entropy(step.model(images), torch.arange(4)), step.parameters)


@pytest.mark.parametrize("bucket_bytes", [1, 100_000, 1 << 30])
def test_the_means_are_in_the_memory_of_the_optimizer(
    step: StaticStep, reduced: list[Tensor], monkeypatch: pytest.MonkeyPatch, bucket_bytes: int
) -> None:
    monkeypatch.setattr(gradients, "BUCKET_BYTES", bucket_bytes)
    alone = backward(step)
    of_all = average(step)
    for _ in range(2):
        reduced.clear()
        step.optimizer.gradients.fill_(7)
        backward(step)
        means = of_all.finish()

        assert means is step.optimizer.gradient_views
        assert all(map(torch.equal, means, alone))
        # The buckets are the whole memory, from its end to its beginning.
        places = [tensor.storage_offset() for tensor in reduced]
        assert places == sorted(places, reverse=True)
        assert places[-1] == 0
        ends = [place + len(tensor) for place, tensor in zip(places, reduced, strict=True)]
        assert ends == [len(step.optimizer.gradients), *places[:-1]]
    assert len(reduced) == {1: len(step.parameters), 100_000: 9, 1 << 30: 1}[bucket_bytes]


def test_a_bucket_is_copied_at_once_and_not_copied_back(step: StaticStep, reduced: list[Tensor]) -> None:
    of_all = average(step)
    with Operations() as before:
        alone = torch.autograd.grad(step.model(torch.zeros(1, 3, 32, 32)).sum(), step.parameters)
    assert before.count["_foreach_copy_"] == len(reduced) == 1
    with Operations() as after:
        step.optimizer.take_gradients(of_all.finish())
    assert dict(after.count) == {"mul_": 1, "div_": 1}
    assert all(map(torch.equal, step.optimizer.gradient_views, alone))


def test_without_hooks_nothing_is_reduced(step: StaticStep, reduced: list[Tensor]) -> None:
    average(step).remove_hooks()
    backward(step)
    assert not reduced
