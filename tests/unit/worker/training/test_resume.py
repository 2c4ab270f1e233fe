"""A training that was stopped anywhere and resumed ends as one that was left alone, bit for bit (on a CPU)."""

from typing import Any

import pytest
import torch

from worker.checkpoints.checkpoint import Checkpoint

OPTIMIZERS = {
    "sgd": {"type": "sgd", "learning_rate": 0.05, "nesterov": True},
    "adam": {"type": "adam", "learning_rate": 0.001, "weight_decay": 1e-4},
}
EVERY_STEP = {"every_s": 1e-9}
NORMALIZATIONS: dict[str, dict[str, Any]] = {
    type: {"type": type} for type in ("batch", "layer", "instance", "group", "none")
}
NORMALIZATIONS["ghost"] = {"type": "batch", "ghost_batch_size": 10}


def rows_after(record: Any, step: int) -> list[Any]:
    return [row for row in record.rows if row[2] > step]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_resumed_from_any_checkpoint_the_weights_and_the_rows_are_those_of_one_left_alone(
    attempt: Any, make_spec: Any, normalization: str, optimizer: str
) -> None:
    spec = make_spec(
        normalization=NORMALIZATIONS[normalization],
        batch_size=24,
        drop_last=False,
        optimizer=OPTIMIZERS[optimizer],
        schedule={"type": "cosine", "warmup_epochs": 0.5},
        dataset={"test_limit": 20},
        checkpoint=EVERY_STEP,
    )
    alone = attempt(spec)

    # Within the first epoch, at its end, within the second.
    for step in (2, 3, 4):
        resumed = attempt(spec, resume=alone.at_step(step))
        assert resumed.events[0].resumed_from_step == step
        assert resumed.weights == alone.weights
        assert resumed.rows == rows_after(alone, step)


def test_a_row_that_a_stop_cut_in_two_is_still_the_average_of_all_its_images(attempt: Any, make_spec: Any) -> None:
    spec = make_spec(batch_size=2, epochs=1)
    alone = attempt(spec)
    paused = attempt(spec, stop="pause", stop_at=5)
    resumed = attempt(spec, resume=paused.checkpoints[-1])

    # Rows stand at steps 4 and 7: the pause at 5 lies between.
    assert paused.rows + resumed.rows == alone.rows


def test_stopped_again_and_again_it_still_ends_the_same(attempt: Any, make_spec: Any) -> None:
    spec = make_spec(dataset={"test_limit": 10})
    alone = attempt(spec)
    rows: list[Any] = []
    checkpoint: Checkpoint | None = None
    while not rows or rows[-1][2] < spec.total_steps:
        part = attempt(spec, resume=checkpoint, stop="pause", stop_at=3)
        rows += part.rows
        checkpoint = part.checkpoints[-1]

    assert rows == alone.rows
    assert part.weights == alone.weights


def test_resumed_from_its_last_checkpoint_there_is_nothing_left_to_do(attempt: Any, make_spec: Any) -> None:
    spec = make_spec()
    again = attempt(spec, resume=attempt(spec).checkpoints[-1])

    assert again.types == ["started", "finished"]
    assert again.finished.outcome == "succeeded"


def test_a_rerun_is_the_same_and_another_seed_is_not(attempt: Any, make_spec: Any) -> None:
    torch.manual_seed(1)
    first = attempt(make_spec())
    torch.manual_seed(2)
    again = attempt(make_spec())
    other = attempt(make_spec(seed=8))

    assert (first.weights, first.rows) == (again.weights, again.rows)
    assert first.weights != other.weights


def test_how_often_checkpoints_are_taken_changes_nothing(attempt: Any, make_spec: Any) -> None:
    assert attempt(make_spec()).weights == attempt(make_spec(checkpoint=EVERY_STEP)).weights


@pytest.mark.parametrize(
    "given", [{"seed": 8}, {"epochs": 3}, {"normalization": {"type": "layer"}}, {"model": "resnet56"}]
)
def test_the_checkpoint_of_another_training_is_refused(attempt: Any, make_spec: Any, given: dict[str, Any]) -> None:
    checkpoint = attempt(make_spec(), stop="pause", stop_at=1).checkpoints[0]
    failure = attempt(make_spec(**given), resume=checkpoint).finished.failure

    assert failure is not None
    assert (failure.code, failure.may_pass) == ("checkpoint", False)
    assert next(iter(given)) in failure.message
