"""A training that is stopped at any step and resumed is bit-identical to an uninterrupted one (on a CPU)."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.worker.conftest import Record
from worker.checkpoints.checkpoint import Checkpoint
from worker.normalizations.registry import NORMALIZATIONS
from worker.training.loop import train

OPTIMIZERS = {
    "sgd": {"type": "sgd", "learning_rate": 0.05, "nesterov": True},
    "adam": {"type": "adam", "learning_rate": 0.001, "weight_decay": 1e-4},
}
EVERY_STEP = {"every_s": 1e-9}
FUSED = ("batch", "layer", "instance", "group", "none")
CASES: list[tuple[dict[str, Any], str]] = [
    *(({"type": type}, "sgd") for type in NORMALIZATIONS),
    *(({"type": type}, "adam") for type in ("batch", "group", "none")),
    *(({"type": "batch", "ghost_batch_size": 10}, optimizer) for optimizer in OPTIMIZERS),
]


def rows_after(record: Any, step: int) -> list[Any]:
    return [row for row in record.rows if row[2] > step]


@pytest.mark.parametrize(("normalization", "optimizer"), CASES, ids=str)
def test_a_training_resumed_from_any_checkpoint_has_equal_weights_and_rows(
    attempt: Any, make_spec: Any, normalization: dict[str, Any], optimizer: str
) -> None:
    spec = make_spec(
        normalization=normalization,
        batch_size=24,
        drop_last=False,
        optimizer=OPTIMIZERS[optimizer],
        schedule={"type": "cosine", "warmup_epochs": 0.5},
        dataset={"test_limit": 20},
        checkpoint=EVERY_STEP,
    )
    alone = attempt(spec)

    # Within the first epoch, at its end, within the second.
    for step in (2, 3, 4) if normalization["type"] in FUSED else (2,):
        resumed = attempt(spec, resume=alone.at_step(step))
        assert resumed.events[0].resumed_from_step == step
        assert resumed.weights == alone.weights
        assert resumed.rows == rows_after(alone, step)


def test_a_row_interrupted_by_a_pause_averages_over_all_its_images(attempt: Any, make_spec: Any) -> None:
    spec = make_spec(batch_size=2, epochs=1)
    alone = attempt(spec)
    paused = attempt(spec, stop="pause", stop_at=5)
    resumed = attempt(spec, resume=paused.checkpoints[-1])

    # Rows stand at steps 4 and 7: the pause at 5 lies between.
    assert paused.rows + resumed.rows == alone.rows


def test_a_training_paused_repeatedly_has_equal_weights_and_rows(attempt: Any, make_spec: Any) -> None:
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


def test_a_training_resumed_from_its_last_checkpoint_finishes_at_once(attempt: Any, make_spec: Any) -> None:
    spec = make_spec()
    again = attempt(spec, resume=attempt(spec).checkpoints[-1])

    assert again.types == ["started", "finished"]
    assert again.finished.outcome == "succeeded"


@pytest.mark.parametrize("given", [None, "float32"])
def test_a_training_resumed_elsewhere_keeps_its_precision(attempt: Any, make_spec: Any, given: Any) -> None:
    alone = attempt(make_spec(), precision="bfloat16")
    assert alone.events[0].precision == alone.checkpoints[0].precision == "bfloat16"
    resumed = attempt(make_spec(), resume=alone.at_step(4), precision=given)

    assert resumed.events[0].precision == "bfloat16"
    assert resumed.weights == alone.weights
    assert resumed.rows == rows_after(alone, 4)


def test_a_checkpoint_of_an_older_version_is_resumed_in_the_precision_that_is_given(
    attempt: Any, make_spec: Any
) -> None:
    alone = attempt(make_spec())
    taken = alone.at_step(4)
    manifest = json.loads(taken.files["manifest.json"])
    assert manifest.pop("precision") == "float32"
    older = replace(taken, files=taken.files | {"manifest.json": json.dumps(manifest).encode()})

    assert attempt(make_spec(), resume=older, precision="float32").weights == alone.weights
    assert attempt(make_spec(), resume=older).weights == alone.weights


def test_a_rerun_is_identical_and_another_seed_differs(attempt: Any, make_spec: Any) -> None:
    torch.manual_seed(1)
    first = attempt(make_spec())
    torch.manual_seed(2)
    again = attempt(make_spec())
    other = attempt(make_spec(seed=8))

    assert (first.weights, first.rows) == (again.weights, again.rows)
    assert first.weights != other.weights


def test_the_frequency_of_checkpoints_does_not_change_the_weights(attempt: Any, make_spec: Any) -> None:
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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_that_is_extended_equals_one_that_was_longer_from_the_start(
    attempt: Any, make_spec: Any, optimizer: str
) -> None:
    given = {
        "normalization": {"type": "batch"},
        "optimizer": OPTIMIZERS[optimizer],
        "schedule": {"type": "constant", "warmup_epochs": 2.5},
        "ema": {"decay": 0.75},
        "dataset": {"train_limit": 32, "test_limit": 10},
    }
    short, long = attempt(make_spec(**given, epochs=2)), attempt(make_spec(**given, epochs=4))
    extended = attempt(make_spec(**given, epochs=4), resume=short.checkpoints[-1])

    assert extended.finished.outcome == "succeeded"
    assert short.rows + extended.rows == long.rows
    assert extended.weights == long.weights
    assert extended.checkpoints[-1].files["state.pt"] == long.checkpoints[-1].files["state.pt"]


@pytest.mark.parametrize(
    ("schedule", "epochs"), [("constant", 1), ("multistep", 3), ("cosine", 3)], ids=["fewer", "multistep", "cosine"]
)
def test_a_training_is_not_shortened_nor_extended_under_a_schedule_over_its_length(
    attempt: Any, make_spec: Any, schedule: str, epochs: int
) -> None:
    given = {"schedule": {"type": schedule}}
    taken = attempt(make_spec(**given), stop="pause", stop_at=1).checkpoints[-1]
    failure = attempt(make_spec(**given, epochs=epochs), resume=taken).finished.failure

    assert failure is not None
    assert "of another training: epochs differ" in failure.message


class Killed(BaseException):
    """The process of an attempt ended at an arbitrary moment."""


def attempts_killed_at(spec: Any, dataset: Any, kills: list[int]) -> tuple[list[Any], bytes]:
    """Train to the end, in attempts that are killed after so many calls of `control`; return rows and weights."""
    rows: dict[tuple[str, int], Any] = {}
    saved: list[Checkpoint] = []
    for kill in (*kills, None):
        record, left = Record(), kill

        def control() -> None:
            nonlocal left
            if left is not None:
                left -= 1
                if left < 0:
                    raise Killed

        with contextlib.suppress(Killed):
            train(
                spec,
                dataset,
                report=record.events.append,
                save=lambda _, checkpoint: saved.append(checkpoint),
                control=control,
                resume=saved[-1] if saved else None,
            )
        for kind, _, step, values in record.rows:
            assert rows.setdefault((kind, step), values) == values
    return sorted(rows.items()), saved[-1].files["model.safetensors"]


GHOST = {"type": "batch", "ghost_batch_size": 2}
KILLED = [(normalization, "sgd") for normalization in (*({"type": type} for type in NORMALIZATIONS), GHOST)]
KILLED_WITH_ADAM = [(normalization, "adam") for normalization, _ in KILLED]


@pytest.mark.parametrize(
    ("normalization", "optimizer"),
    [*KILLED, *(pytest.param(*case, marks=pytest.mark.faults) for case in KILLED_WITH_ADAM)],
    ids=str,
)
def test_a_training_killed_at_any_steps_ends_with_equal_weights_and_rows(
    synthetic: Any, make_spec: Any, normalization: dict[str, Any], optimizer: str
) -> None:
    given_spec = {
        "normalization": normalization,
        "optimizer": OPTIMIZERS[optimizer],
        "batch_size": 4,
        "drop_last": False,
        "dataset": {"train_limit": 14, "test_limit": 5},
    }
    alone = attempts_killed_at(make_spec(**given_spec), synthetic, [])

    @settings(max_examples=2, deadline=None)
    @given(kills=st.lists(st.integers(0, 9), min_size=1, max_size=3), every_s=st.sampled_from([None, 1e-9]))
    def check(kills: list[int], every_s: float | None) -> None:
        spec = make_spec(**given_spec, checkpoint={"every_s": every_s})
        assert attempts_killed_at(spec, synthetic, kills) == alone

    check()


def test_a_training_paused_before_every_step_has_equal_weights_and_rows(attempt: Any, make_spec: Any) -> None:
    spec = make_spec(batch_size=4, drop_last=False, epochs=1, dataset={"train_limit": 34, "test_limit": 5})
    alone = attempt(spec)
    rows: list[Any] = []
    part = attempt(spec, stop="pause")
    for step in range(1, spec.total_steps):
        part = attempt(spec, resume=part.checkpoints[-1], stop="pause", stop_at=1)
        assert part.checkpoints[-1].step == step
        rows += part.rows
    rows += attempt(spec, resume=part.checkpoints[-1]).rows

    assert rows == alone.rows
