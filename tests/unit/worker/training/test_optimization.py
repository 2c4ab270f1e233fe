"""The learning rate is a function of the spec and the step; the optimizers agree with their definitions."""

from typing import Any

import pytest
import torch
from torch import nn

from worker.training.flat_tensors import FlatParameters
from worker.training.optimization import FlatOptimizer, learning_rate


def rates(spec: Any) -> list[float]:
    return [learning_rate(spec, step) for step in range(spec.total_steps)]


@pytest.fixture
def make(make_spec: Any) -> Any:
    """A spec of ten epochs of one step with a learning rate of 0.1 and the given schedule."""
    return lambda **schedule: make_spec(
        epochs=10, batch_size=64, learning_rate_scaling={"rule": "none"}, schedule=schedule
    )


def test_a_constant_schedule_is_constant(make: Any) -> None:
    assert rates(make(type="constant")) == [0.1] * 10


def test_a_multistep_schedule_steps_down_at_fractions_of_the_training(make: Any) -> None:
    spec = make(type="multistep", milestones=[0.3, 0.7], gamma=0.5)

    assert rates(spec) == pytest.approx([0.1] * 3 + [0.05] * 4 + [0.025] * 3)


def test_a_cosine_schedule_goes_from_the_rate_to_its_final_fraction(make: Any) -> None:
    spec = make(type="cosine", final_fraction=0.2)

    assert rates(spec)[0] == pytest.approx(0.1)
    assert rates(spec)[5] == pytest.approx(0.06)
    assert learning_rate(spec, 10) == pytest.approx(0.02)
    assert rates(spec) == sorted(rates(spec), reverse=True)


def test_a_warm_up_rises_linearly_to_the_schedule(make: Any) -> None:
    assert rates(make(type="constant", warmup_epochs=4)) == pytest.approx([0.025, 0.05, 0.075] + [0.1] * 7)


def test_linear_scaling_multiplies_by_the_batch_size_over_its_reference(make_spec: Any) -> None:
    spec = make_spec(
        batch_size=8,
        learning_rate_scaling={"rule": "linear", "reference_batch_size": 32},
        schedule={"type": "constant"},
    )

    assert learning_rate(spec, 0) == pytest.approx(0.025)


SGD = {"type": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}


def by_hand_sgd(w: float, gradients: list[float], rate: float) -> float:
    buffer = 0.0
    for gradient in gradients:
        gradient += 0.01 * w
        buffer = 0.8 * buffer + gradient
        w -= rate * (gradient + 0.8 * buffer)
    return w


def by_hand_adam(w: float, gradients: list[float], rate: float) -> float:
    first = second = 0.0
    for t, gradient in enumerate(gradients, 1):
        gradient += 0.01 * w
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        w -= rate * (first / (1 - 0.8**t)) / ((second / (1 - 0.9**t)) ** 0.5 + 1e-3)
    return w


@pytest.mark.parametrize(
    ("optimizer", "by_hand"),
    [(SGD, by_hand_sgd), ({"type": "adam", "betas": [0.8, 0.9], "eps": 1e-3, "weight_decay": 0.01}, by_hand_adam)],
)
def test_an_optimizer_steps_as_its_paper_says(make_spec: Any, optimizer: Any, by_hand: Any) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    built = FlatOptimizer(make_spec(optimizer=optimizer).optimizer, FlatParameters(model))
    for gradient in (0.5, -0.25, 1.0):
        built.take_gradients([torch.full((1, 1), gradient)])
        built.step(torch.tensor(0.3, dtype=torch.float64))

    assert model.weight.item() == pytest.approx(by_hand(2.0, [0.5, -0.25, 1.0], 0.3), rel=1e-5)
