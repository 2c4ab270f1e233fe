"""Telemetry does not change the training, is the same after a resume, and agrees with its definitions."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.architecture import ARCHITECTURES
from worker.data.batches import TrainingData
from worker.data.datasets import ImageDataset
from worker.models import build_model
from worker.normalizations import registry
from worker.spec import TrainingSpec
from worker.training import layer_telemetry

NORMALIZATIONS: dict[str, dict[str, Any]] = {type: {"type": type} for type in registry.NORMALIZATIONS}
NORMALIZATIONS["ghost"] = {"type": "batch", "ghost_batch_size": 4}
SOME = ("batch", "sync_batch", "ghost", "layer", "instance", "group", "none", "batch_ws", "switchable")
BATCH = ("batch", "batch_ws", "sync_batch", "ghost")


@pytest.fixture
def images(make_spec: Any, synthetic: ImageDataset) -> tuple[Tensor, Tensor]:
    return next(TrainingData(make_spec(), synthetic).eval_batches())


def measured(spec: TrainingSpec, model: torch.nn.Module, images: tuple[Tensor, Tensor]) -> dict[str, float]:
    return layer_telemetry.measure(model, spec, *images)


def of(values: dict[str, float], quantity: str) -> list[float]:
    return [value for name, value in values.items() if name.endswith(f"/{quantity}")]


@pytest.mark.parametrize("normalization", SOME)
def test_telemetry_does_not_change_a_bit_of_the_training(attempt: Any, make_spec: Any, normalization: str) -> None:
    given = {"normalization": NORMALIZATIONS[normalization], "dataset": {"test_limit": 20}}
    without, with_it = attempt(make_spec(**given)), attempt(make_spec(**given, telemetry={}))
    assert with_it.weights == without.weights
    assert [row for row in with_it.rows if row[0] != "telemetry"] == without.rows
    assert [row[1:3] for row in with_it.rows if row[0] == "telemetry"] == [(1, 4), (2, 8)]
    assert "telemetry" not in without.types


def test_a_resumed_training_reports_the_same_telemetry(attempt: Any, make_spec: Any) -> None:
    spec = make_spec(normalization={"type": "batch"}, telemetry={}, checkpoint={"every_s": 1e-9})
    alone = attempt(spec)
    for step in (2, 4, 6):
        assert attempt(spec, resume=alone.at_step(step)).rows == [row for row in alone.rows if row[2] > step]


def test_telemetry_can_be_turned_on_when_resuming(attempt: Any, make_spec: Any) -> None:
    stopped = attempt(make_spec(), stop="pause", stop_at=5)
    resumed = attempt(make_spec(telemetry={}), resume=stopped.checkpoints[-1])
    assert resumed.finished.outcome == "succeeded"
    assert resumed.types.count("telemetry") == 1


def test_telemetry_is_measured_every_n_epochs_and_at_the_end(attempt: Any, make_spec: Any) -> None:
    record = attempt(make_spec(epochs=5, telemetry={"every_epochs": 2}, dataset={"train_limit": 16, "test_limit": 10}))
    assert [row[1] for row in record.rows if row[0] == "telemetry"] == [2, 4, 5]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_measuring_changes_neither_the_model_nor_the_random_numbers(
    make_spec: Any, images: tuple[Tensor, Tensor], normalization: str
) -> None:
    spec = make_spec(normalization=NORMALIZATIONS[normalization])
    model = build_model(spec.model, spec.normalization, seed=0)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    seen = [tensor.clone() for tensor in images]
    values = measured(spec, model, images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(*pair) for pair in zip(images, seen, strict=True))
    assert measured(spec, model, images) == values, "no hook stays"
    assert len(of(values, "activation_rms")) == 19
    assert all(len(of(values, f"percentile_{percent}")) == 19 for percent in (1, 20, 80, 99))
    assert len(of(values, "gain_rms")) == (0 if normalization == "none" else 19)
    assert len(of(values, "mean_gap")) == len(of(values, "variance_gap")) == (19 if normalization in BATCH else 0)
    assert ("train_mode_error" in values) == (normalization in BATCH)
    assert all(math.isfinite(value) for value in values.values())


def test_the_values_of_the_first_layer_agree_with_the_definitions(
    make_spec: Any, images: tuple[Tensor, Tensor]
) -> None:
    spec = make_spec(normalization={"type": "batch"}, batch_size=10)
    model = build_model(spec.model, spec.normalization, seed=0)
    layer: Any = model.get_submodule("stem_norm")
    with torch.no_grad():
        layer.running_mean.normal_(generator=torch.Generator().manual_seed(1))
        layer.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
        layer.weight.fill_(-0.5)
        x = model.get_submodule("stem")(images[0])
    mean_gaps, variance_gaps = [], []
    for batch in x.split(10):
        flat = batch.transpose(0, 1).flatten(1)
        mean_gaps.append((flat.mean(1) - layer.running_mean) / (layer.running_var + layer.eps).sqrt())
        variance = flat.var(1, correction=0)
        variance_gaps.append(((variance + layer.eps) / (layer.running_var + layer.eps)).log())
    values = measured(spec, model, images)
    assert values["stem_norm/activation_rms"] == pytest.approx(float(x.square().mean().sqrt()), rel=1e-3)
    assert values["stem_norm/gain_rms"] == 0.5
    assert values["stem_norm/mean_gap"] == pytest.approx(float(torch.stack(mean_gaps).square().mean().sqrt()), rel=1e-3)
    expected = float(torch.stack(variance_gaps).square().mean().sqrt())
    assert values["stem_norm/variance_gap"] == pytest.approx(expected, rel=1e-3)
    for percent in (1, 20, 80, 99):
        found, features = values[f"stem_norm/percentile_{percent}"], x.numpy()
        assert np.percentile(features, percent - 0.2) < found < np.percentile(features, percent + 0.2)


@pytest.mark.parametrize("shape", [(250, 64, 8, 8), (250, 16, 32, 32)])
def test_percentiles_are_of_all_channels_and_pixels(shape: tuple[int, ...]) -> None:
    _, channels, height, _ = shape
    for axis, size in ((1, channels), (2, height), (3, height)):
        x = torch.zeros(shape).to(memory_format=torch.channels_last)
        x.select(axis, size // 2 - 1).fill_(1)
        at_one = 1 - 1 / size
        for percent, value in ((at_one - 0.005, 0), (at_one + 0.005, 1)):
            assert float(torch.quantile(layer_telemetry.sample(x), percent)) == value


def test_percentiles_of_few_values_are_those_of_all() -> None:
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    assert sorted(layer_telemetry.sample(x).tolist()) == sorted(x.flatten().tolist())


@pytest.mark.parametrize("normalization", BATCH)
def test_the_train_mode_error_is_the_error_in_training_mode(
    make_spec: Any, images: tuple[Tensor, Tensor], normalization: str
) -> None:
    spec = make_spec(normalization=NORMALIZATIONS[normalization], batch_size=10)
    model = build_model(spec.model, spec.normalization, seed=3)
    values = measured(spec, model, images)
    training = copy.deepcopy(model).train()
    size = 4 if normalization == "ghost" else 10
    seen = len(images[0]) // size * size
    with torch.no_grad():
        wrong = [
            int((training(x).argmax(1) != y).sum())
            for x, y in zip(images[0][:seen].split(size), images[1][:seen].split(size), strict=True)
        ]
    assert values["train_mode_error"] == pytest.approx(sum(wrong) / seen, rel=1e-3)


def test_gaps_shrink_as_batches_grow(make_spec: Any, images: tuple[Tensor, Tensor]) -> None:
    found = []
    for batch_size in (2, 8, 32):
        spec = make_spec(normalization={"type": "batch"}, batch_size=batch_size)
        model = build_model(spec.model, spec.normalization, seed=0)
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0
        model.train()(images[0])
        found.append(measured(spec, model, images)["stem_norm/variance_gap"])
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.5 * found[-1]


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_a_row_has_a_limited_number_of_layers(model: Any) -> None:
    names = layer_telemetry.layers_of(model)
    every = [feature_map.layer for feature_map in ARCHITECTURES[model].feature_maps()]
    assert len(names) == len(set(names)) == min(len(every), layer_telemetry.MAX_LAYERS)
    assert (names[0], names[-1]) == (every[0], every[-1])
    assert sorted(names, key=every.index) == list(names)


def test_it_works_in_bfloat16_and_on_fewer_images_than_a_batch(make_spec: Any, images: tuple[Tensor, Tensor]) -> None:
    spec = make_spec(normalization={"type": "batch"}, batch_size=64)
    model = build_model(spec.model, spec.normalization, seed=0)
    values = layer_telemetry.measure(model, spec, images[0][:5], images[1][:5], precision="bfloat16")
    assert values["eval_mode_error"] * 5 == pytest.approx(round(values["eval_mode_error"] * 5))
