"""An evaluation computes what an ordinary loop does; on a GPU its full batches replay a graph on fixed memory."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from worker.data import batches
from worker.data.batches import TrainingData
from worker.data.datasets import ImageDataset
from worker.events import Event, Log
from worker.models import build_model
from worker.numerics.precision import Precision, autocast
from worker.spec import TrainingSpec
from worker.training import evaluation
from worker.training.evaluation import EvaluationStep, evaluate
from worker.training.loop import train
from worker.training.static_step import StaticStep
from worker.training.step_cache import StepCache

CPU = torch.device("cpu")
SIZE = 8
"""Images of a full batch."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "EVAL_BATCH_SIZE", SIZE)
    monkeypatch.setattr(batches, "EVAL_BATCH_SIZE", SIZE)


@torch.no_grad()
def ordinary(model: nn.Module, data: TrainingData, precision: Precision) -> tuple[float, float]:
    """Return the mean loss and the error, batch by batch."""
    model.eval()
    losses, wrong = [], 0
    for images, labels in data.eval_batches():
        with autocast(precision, CPU):
            logits = model(images)
        losses.append(F.cross_entropy(logits.float(), labels, reduction="sum").item())
        wrong += int((logits.argmax(1) != labels).sum())
    return math.fsum(losses) / data.num_images("test"), wrong / data.num_images("test")


class Replay:
    """Stands for a CUDA graph: it executes the same operations on the same memory again."""

    def __init__(self, body: Callable[[], object]) -> None:
        self.body, self.count = body, 0

    def replay(self) -> None:
        self.count += 1
        self.body()


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Replay]:
    """Captures evaluations on the CPU; the graphs."""
    found: list[Replay] = []

    def capture(body: Callable[[], object], warm_up: Callable[[], object], device: torch.device) -> Replay:
        warm_up()
        found.append(Replay(body))
        return found[-1]

    begin = EvaluationStep.__init__

    def as_on_a_gpu(step: EvaluationStep, *arguments: Any) -> None:
        begin(step, *arguments)
        step.is_capturable = True

    monkeypatch.setattr(evaluation, "capture", capture)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 100 * (1 + len(found)))
    monkeypatch.setattr(EvaluationStep, "__init__", as_on_a_gpu)
    return found


@pytest.fixture
def spec(make_spec: Callable[..., TrainingSpec]) -> TrainingSpec:
    return make_spec(normalization={"type": "batch"}, dataset={"train_limit": 16, "test_limit": 2 * SIZE + 3})


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_evaluation_has_the_bits_of_an_ordinary_one(
    spec: TrainingSpec, synthetic: ImageDataset, precision: Precision
) -> None:
    model, data = build_model(spec.model, spec.normalization, seed=1), TrainingData(spec, synthetic)
    found = evaluate(model, data, precision=precision)
    assert (found.loss, found.error) == ordinary(model, data, precision)


def test_full_batches_replay_the_graph_and_the_last_one_does_not(
    spec: TrainingSpec, synthetic: ImageDataset, captures: list[Replay]
) -> None:
    model, data = build_model(spec.model, spec.normalization, seed=1), TrainingData(spec, synthetic)
    step = EvaluationStep(model, CPU, "float32")
    step.capture()
    for _ in range(2):
        found = evaluate(model, data, step=step)
        assert (found.loss, found.error) == ordinary(model, data, "float32")
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)

    assert captures[0].count == 4
    assert not step.is_capturable
    assert step.nbytes == 100


def test_a_training_captures_its_evaluation_once_and_later_ones_replay_it(
    spec: TrainingSpec, synthetic: ImageDataset, captures: list[Replay]
) -> None:
    cache = StepCache(1 << 30)
    events: list[list[Event]] = []
    for steps in (cache, cache, StepCache(0)):
        seen: list[Event] = []
        train(spec, synthetic, report=seen.append, save=lambda *_: None, steps=steps)
        events.append([event.model_copy(update={"time": None}) for event in seen if event.type == "metrics"])

    assert [graph.count for graph in captures] == [8, 4]
    rows = [[event.values["test_loss"] for event in seen if event.kind == "eval"] for seen in events]  # type: ignore[union-attr]
    assert rows[0] == rows[1] == rows[2]


def test_an_evaluation_that_cannot_be_captured_is_logged_once(
    spec: TrainingSpec, synthetic: ImageDataset, captures: list[Replay], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(evaluation, "capture", fail)
    seen: list[Event] = []
    finished = train(spec, synthetic, report=seen.append, save=lambda *_: None)

    assert finished.outcome == "succeeded"
    assert [event.message for event in seen if isinstance(event, Log)] == [
        "no CUDA graph of the evaluation, so that it takes longer: operation not permitted when stream is capturing"
    ]


def test_the_memory_of_the_graph_counts_for_the_steps_that_are_kept(spec: TrainingSpec, captures: list[Replay]) -> None:
    step = StaticStep(spec, CPU, "float32")
    before = step.nbytes
    step.evaluation.capture()
    assert step.nbytes == before + 100
