"""Fields are set and read by dotted names, and labels identify values uniquely."""

from itertools import combinations
from typing import Any

import pytest

from service.experiments import axes
from worker.spec import TrainingSpec


def spec(**fields: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"normalization": {"type": "group"}, "batch_size": 2} | fields
    return TrainingSpec.model_validate(given).model_dump(mode="json")


@pytest.mark.parametrize(
    ("fields", "field", "label"),
    [
        ({}, "normalization", "group (8)"),
        ({"normalization": {"type": "group", "channels_per_group": 16}}, "normalization", "group (16 channels)"),
        ({"normalization": {"type": "group", "eps": 1e-3}}, "normalization", "group (8, eps 0.001)"),
        ({"normalization": {"type": "batch"}}, "normalization", "batch"),
        ({"normalization": {"type": "batch", "momentum": 0.5}}, "normalization", "batch (momentum 0.5)"),
        ({"normalization": {"type": "none"}}, "normalization", "none"),
        ({}, "batch_size", "2"),
        ({}, "normalization.num_groups", "8"),
        ({"normalization": {"type": "layer"}}, "normalization.num_groups", "null"),
        ({"optimizer": {"type": "sgd", "learning_rate": 0.2}}, "optimizer", "sgd (learning_rate 0.2)"),
        ({"optimizer": {"type": "adam"}}, "optimizer", "adam"),
        ({"optimizer": {"type": "adam"}}, "optimizer.learning_rate", "0.001"),
        ({"optimizer": {"type": "sgd", "learning_rate": 0.12345678}}, "optimizer.learning_rate", "0.12345678"),
        ({}, "schedule.milestones", "[0.5,0.75]"),
        ({"dataset": {"train_limit": 500}}, "dataset", "cifar10 (train_limit 500)"),
        ({"learning_rate_scaling": {"rule": "none"}}, "learning_rate_scaling", "none"),
        ({"checkpoint": {"keep_last": 3}}, "checkpoint", "checkpoint (keep_last 3)"),
        ({"deterministic": True}, "deterministic", "true"),
        ({}, "recipe", "null"),
    ],
)
def test_a_value_has_a_short_label(fields: dict[str, Any], field: str, label: str) -> None:
    assert axes.label(field, axes.read(spec(**fields), field)) == label


def test_different_values_have_different_labels() -> None:
    kinds: list[dict[str, Any]] = [{"type": kind} for kind in ("batch", "layer", "instance", "group", "none")]
    kinds += [{"type": "group", "num_groups": n} for n in (1, 2, 4)]
    kinds += [{"type": "group", "channels_per_group": n} for n in (1, 2, 4, 8)]
    kinds += [{"type": "batch", "ghost_batch_size": n} for n in (8, 16)]
    kinds += [{"type": kind, "momentum": 0.5} for kind in ("batch", "sync_batch")]
    kinds += [{"type": kind, "affine": False} for kind in ("batch", "layer", "group")]
    kinds += [{"type": "group", "num_groups": 4, "affine": False, "eps": eps} for eps in (1e-5, 1e-5 + 1e-12, 0.1)]
    labels = [axes.label("normalization", spec(normalization=kind)["normalization"]) for kind in kinds]
    assert all(one != other for one, other in combinations(labels, 2)), labels


@pytest.mark.parametrize(
    ("field", "value", "label"),
    [
        ("normalization", {"type": "group"}, "group (8)"),
        ("normalization", {"type": "batch", "ghost_batch_size": 16}, "batch (ghost batches of 16)"),
        ("normalization", {"type": "group", "num_groups": 0}, "group (0)"),
        ("normalization", {"type": "unknown"}, "unknown"),
        ("normalization", "batch", "batch"),
        ("optimizer", {"type": "sgd", "learning_rate": 0.2}, "sgd (learning_rate 0.2)"),
        ("learning_rate_scaling", {"rule": "none"}, "none"),
        ("optimizer.betas", [0.8, 0.9], "[0.8,0.9]"),
        ("batch_size", 3, "3"),
    ],
)
def test_a_value_of_a_grid_has_the_label_that_the_results_will_show(field: str, value: Any, label: str) -> None:
    assert axes.label(field, axes.complete(field, value)) == label


def test_a_field_is_placed_without_touching_what_it_was_placed_in() -> None:
    optimizer = {"type": "sgd", "momentum": 0.5}
    body: dict[str, Any] = {"optimizer": optimizer, "schedule": "not an object"}
    axes.place(body, "optimizer.learning_rate", 1)
    axes.place(body, "schedule.gamma", 2)
    axes.place(body, "batch_size", 3)
    assert body == {
        "optimizer": {"type": "sgd", "momentum": 0.5, "learning_rate": 1},
        "schedule": {"gamma": 2},
        "batch_size": 3,
    }
    assert optimizer == {"type": "sgd", "momentum": 0.5}


@pytest.mark.parametrize("field", ["optimizer.learning_rate", "optimizer.betas", "normalization.num_groups", "seed"])
def test_what_some_job_can_have_is_a_field(field: str) -> None:
    assert axes.is_field(field)


@pytest.mark.parametrize("field", ["optimizer.lr", "seed.x", "x", "", "optimizer.", "optimizer.type.x"])
def test_what_no_job_can_have_is_none(field: str) -> None:
    assert not axes.is_field(field)


def test_equal_values_have_one_canonical_text() -> None:
    assert axes.canonical({"b": 1, "a": [1.5]}) == axes.canonical({"a": [1.5], "b": 1})
    assert axes.canonical({"a": 1}) != axes.canonical({"a": "1"})
