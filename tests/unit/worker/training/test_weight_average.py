"""The average of the weights: what is evaluated and kept, while the training itself does not change."""

import io
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.unit.worker.distributed.groups import Stop, Team, records
from tests.unit.worker.training.test_resume import EVERY_STEP, OPTIMIZERS, rows_after
from worker.checkpoints.checkpoint import Checkpoint
from worker.data.batches import TrainingData
from worker.data.datasets import ImageDataset
from worker.models import build_model
from worker.spec import TrainingSpec
from worker.training.evaluation import evaluate
from worker.training.static_step import StaticStep
from worker.training.step_cache import StepCache

CPU = torch.device("cpu")
EMA = {"decay": 0.75}
CASES = [
    ({"type": "batch"}, OPTIMIZERS["sgd"]),
    ({"type": "group"}, {"type": "sgd", "momentum": 0}),
    ({"type": "group"}, OPTIMIZERS["adam"]),
]


def kept(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights for use: those of `model.safetensors`."""
    return safetensors.torch.load(checkpoint.files["model.safetensors"])


def trained(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights that the training continues with."""
    weights: dict[str, Tensor] = torch.load(io.BytesIO(checkpoint.files["state.pt"]), weights_only=True)["weights"]
    return weights


def test_the_kept_weights_are_the_average_over_all_steps_from_the_initial_ones(attempt: Any, make_spec: Any) -> None:
    given = {"normalization": {"type": "batch"}, "checkpoint": EVERY_STEP}
    plain, averaged = attempt(make_spec(**given)), attempt(make_spec(**given, ema=EMA))
    spec = make_spec(**given)
    average = build_model(spec.model, spec.normalization, seed=spec.seed).state_dict()

    assert [checkpoint.step for checkpoint in plain.checkpoints] == list(range(1, 9))
    for alone, taken in zip(plain.checkpoints, averaged.checkpoints, strict=True):
        latest = kept(alone)
        for name, weight in latest.items():
            if weight.is_floating_point():
                average[name] = 0.75 * average[name] + 0.25 * weight
                torch.testing.assert_close(kept(taken)[name], average[name])
            assert torch.equal(trained(taken)[name], weight), "the average changed the training"


def test_the_training_rows_are_those_without_an_average_and_the_evaluation_is_that_of_the_kept_weights(
    attempt: Any, make_spec: Any, synthetic: ImageDataset
) -> None:
    given = {"normalization": {"type": "batch"}, "optimizer": OPTIMIZERS["adam"], "telemetry": {}}
    plain, averaged = attempt(make_spec(**given)), attempt(make_spec(**given, ema=EMA))

    assert [row for row in averaged.rows if row[0] == "train"] == [row for row in plain.rows if row[0] == "train"]
    spec = make_spec(**given)
    model = build_model(spec.model, spec.normalization, seed=0)
    for taken in averaged.checkpoints:
        model.load_state_dict(kept(taken))
        found = evaluate(model, TrainingData(spec, synthetic))
        assert taken.metrics == {"test_loss": found.loss, "test_error": found.error}
    assert averaged.checkpoints[0].metrics != plain.checkpoints[0].metrics
    assert [r for r in averaged.rows if r[0] == "telemetry"] != [r for r in plain.rows if r[0] == "telemetry"]


def test_without_an_average_a_checkpoint_has_what_it_always_had(attempt: Any, make_spec: Any) -> None:
    taken = attempt(make_spec()).checkpoints[-1]

    assert set(torch.load(io.BytesIO(taken.files["state.pt"]), weights_only=True)) == {"optimizer", "position"}


@pytest.mark.parametrize(("normalization", "optimizer"), CASES, ids=str)
def test_a_training_resumed_from_any_checkpoint_has_equal_averages_weights_and_rows(
    attempt: Any, make_spec: Any, normalization: Any, optimizer: Any
) -> None:
    spec = make_spec(
        normalization=normalization,
        optimizer=optimizer,
        ema=EMA,
        label_smoothing=0.1,
        batch_size=24,
        drop_last=False,
        dataset={"test_limit": 20},
        checkpoint=EVERY_STEP,
    )
    alone = attempt(spec)

    for step in (2, 3):
        resumed = attempt(spec, resume=alone.at_step(step))
        assert resumed.weights == alone.weights
        assert resumed.rows == rows_after(alone, step)
        for name, weight in trained(alone.checkpoints[-1]).items():
            assert torch.equal(trained(resumed.checkpoints[-1])[name], weight)


def test_a_cancellation_in_an_evaluation_leaves_the_trained_weights(make_spec: Any) -> None:
    step = StaticStep(make_spec(ema=EMA), CPU, "float32")
    bias = step.model.get_parameter("classifier.bias").detach()
    bias.fill_(3)

    def cancelled() -> None:
        with step.evaluated_weights():
            assert float(bias[0]) == 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cancelled()
    assert float(bias[0]) == 3


def test_several_workers_average_alike_and_resume_with_the_same_bits(team: Team, make_spec: Any) -> None:
    given = {"normalization": {"type": "batch"}, "batch_size": 8, "num_workers": 2, "checkpoint": EVERY_STEP}
    spec = make_spec(**given, ema=EMA)
    first, _ = records(team, spec)
    plain, _ = records(team, make_spec(**given))
    paused, _ = records(team, spec, resume=None, stop=Stop(1, "pause", 5))
    resumed, _ = records(team, spec, resume=paused.checkpoints[-1])

    assert resumed.weights == first.weights != plain.weights
    for name, weight in kept(plain.checkpoints[-1]).items():
        assert torch.equal(trained(first.checkpoints[-1])[name], weight)


def test_the_loss_is_that_of_the_smoothed_labels(make_spec: Any) -> None:
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(16) % 10

    def loss(**given: Any) -> tuple[float, Tensor]:
        step = StaticStep(make_spec(**given), CPU, "float32")
        logits = step.model(images).detach()
        step.fill([(images, labels)], [0.1])
        step.run()
        return step.results()[0].loss, logits

    smoothed, logits = loss(label_smoothing=0.2)
    logs = logits.log_softmax(1)
    of_the_label, of_all = -logs.gather(1, labels[:, None]).mean(), -logs.mean()
    assert smoothed == pytest.approx(float(0.8 * of_the_label + 0.2 * of_all), rel=1e-5)
    assert loss()[0] == pytest.approx(float(of_the_label), rel=1e-5)
    assert smoothed != loss()[0]


def test_a_step_is_used_again_only_with_the_same_average_and_smoothing(make_spec: Any) -> None:
    cache = StepCache(max_bytes=1 << 30)
    specs: list[TrainingSpec] = [make_spec(), make_spec(ema=EMA), make_spec(ema={}), make_spec(label_smoothing=0.1)]
    steps = [cache.take(spec, CPU, "float32") for spec in specs]
    for spec, step in zip(specs, steps, strict=True):
        cache.keep(spec, step)

    assert [cache.take(spec, CPU, "float32") for spec in specs] == steps


def test_a_step_that_is_used_again_averages_from_its_new_initial_weights(make_spec: Any) -> None:
    step = StaticStep(make_spec(ema=EMA), CPU, "float32")
    step.fill([(torch.ones(16, 3, 32, 32), torch.zeros(16, dtype=torch.int64))], [0.1])
    step.run()
    step.reset(make_spec(ema=EMA, seed=8))
    fresh = StaticStep(make_spec(ema=EMA, seed=8), CPU, "float32")

    assert all(map(torch.equal, step.state(), fresh.state()))
