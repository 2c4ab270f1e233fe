"""A training begins with the weights of a checkpoint, and with nothing else of it."""

from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.unit.worker.training.test_resume import EVERY_STEP, rows_after
from worker.checkpoints.checkpoint import Checkpoint
from worker.spec import TrainingSpec
from worker.training.static_step import StaticStep

BATCH = {"normalization": {"type": "batch"}, "init_from": "checkpoint_1"}
NOTHING = {"optimizer": {"type": "sgd", "learning_rate": 1e-12, "weight_decay": 0.0}, "epochs": 1}


@pytest.fixture
def first(attempt: Any, make_spec: Any) -> Checkpoint:
    """A checkpoint of another training, with batch normalization."""
    checkpoint: Checkpoint = attempt(make_spec(normalization={"type": "batch"}, seed=1, epochs=1)).checkpoints[-1]
    return checkpoint


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(checkpoint.files["model.safetensors"])


@pytest.mark.parametrize("ema", [None, {"decay": 0.5}], ids=["plain", "averaged"])
def test_it_begins_with_the_weights(attempt: Any, make_spec: Any, first: Checkpoint, ema: Any) -> None:
    spec = make_spec(**BATCH, **NOTHING, ema=ema)
    record = attempt(spec, initial=first)

    assert record.events[0].resumed_from_step == 0
    for name, parameter in StaticStep(spec, torch.device("cpu"), "float32").model.named_parameters():
        begun, trained = weights(first)[name], weights(record.checkpoints[-1])[name]
        torch.testing.assert_close(trained, begun)
        assert name.endswith("bias") or "norm" in name or not torch.allclose(trained, parameter)


def test_a_training_from_its_own_initial_weights_is_the_one_without(attempt: Any, make_spec: Any) -> None:
    spec = make_spec()
    step = StaticStep(spec, torch.device("cpu"), "float32")
    taken = attempt(spec, stop="pause").checkpoints[0]
    assert taken.step == 0
    assert all(torch.equal(weights(taken)[name], one) for name, one in step.model.state_dict().items())

    assert attempt(make_spec(init_from="x"), initial=taken).rows == attempt(spec).rows


def test_it_is_resumed_without_the_first_checkpoint(attempt: Any, make_spec: Any, first: Checkpoint) -> None:
    spec: TrainingSpec = make_spec(**BATCH, checkpoint=EVERY_STEP)
    alone = attempt(spec, initial=first)
    for resumed in (attempt(spec, resume=alone.at_step(3)), attempt(spec, resume=alone.at_step(3), initial=first)):
        assert resumed.weights == alone.weights
        assert resumed.rows == rows_after(alone, 3)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"normalization": {"type": "group"}}, ": it also has stages.0.0.norm1.num_batches_tracked, "),
        ({"normalization": {"type": "evonorm_b0"}}, ": it lacks stem_norm.v, "),
        ({"model": "resnet56"}, ": it lacks stages.0.3.conv1.weight, "),
        ({"model": "resnet18"}, "; of another shape are stem.weight, "),
    ],
    ids=["group", "evonorm_b0", "resnet56", "resnet18"],
)
def test_what_does_not_fit_is_refused_by_name(
    attempt: Any, make_spec: Any, first: Checkpoint, given: dict[str, Any], named: str
) -> None:
    failure = attempt(make_spec(**(BATCH | given)), initial=first).finished.failure

    assert (failure.code, failure.may_pass) == ("checkpoint", False)
    assert failure.message.startswith("the checkpoint checkpoint_1 of init_from does not fit this model and normal")
    assert named in failure.message


def test_a_checkpoint_that_is_missing_or_damaged_is_refused(attempt: Any, make_spec: Any, first: Checkpoint) -> None:
    missing = attempt(make_spec(**BATCH)).finished.failure
    assert missing.message == "init_from is checkpoint_1, but the training was not given that checkpoint"
    damaged = replace(first, files=first.files | {"model.safetensors": b"x"})
    assert "model.safetensors is damaged" in attempt(make_spec(**BATCH), initial=damaged).finished.failure.message
