"""The telemetry of the gradient changes no bit of a training, and agrees with its definition."""

import copy
import math
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.data.batches import Batch, TrainingData
from worker.data.datasets import ImageDataset
from worker.distributed.process_group import ProcessGroup
from worker.models import build_model
from worker.numerics.precision import Precision
from worker.spec import TrainingSpec
from worker.training import gradient_telemetry, telemetry
from worker.training.optimization import learning_rate
from worker.training.static_step import StaticStep

NORMALIZATIONS: dict[str, dict[str, Any]] = {
    "group": {"type": "group"},
    "batch": {"type": "batch"},
    "ghost batch": {"type": "batch", "ghost_batch_size": 2},
    "batch_renorm": {"type": "batch_renorm", "ramp_start": 0},
    # Its backward pass writes running sums.
    "online": {"type": "online"},
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_training_with_it_ends_with_the_same_weights_and_state(
    attempt: Any, make_spec: Any, normalization: str, precision: Precision
) -> None:
    given = {
        "normalization": NORMALIZATIONS[normalization],
        "precision": precision,
        "batch_size": 4,
        "dataset": {"train_limit": 8, "test_limit": 4},
    }
    without, with_it = attempt(make_spec(**given)), attempt(make_spec(**given, telemetry={}))
    last = without.checkpoints[-1].files, with_it.checkpoints[-1].files
    assert last[0]["model.safetensors"] == last[1]["model.safetensors"]
    assert last[0]["state.pt"] == last[1]["state.pt"]
    assert [row for row in with_it.rows if row[0] != "telemetry"] == without.rows
    assert all("gradient_norm" in row[3] for row in with_it.rows if row[0] == "telemetry")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_static_step_keeps_its_values_and_addresses(
    make_spec: Any, synthetic: ImageDataset, normalization: str, precision: Precision
) -> None:
    spec = make_spec(
        normalization=NORMALIZATIONS[normalization],
        batch_size=4,
        dataset={"train_limit": 8, "test_limit": 4},
        ema={"decay": 0.5},
    )
    data = TrainingData(spec, synthetic)
    step = StaticStep(spec, torch.device("cpu"), precision)
    step.fill(list(data.epoch_batches(1)), [0.1, 0.1])
    step.run()

    def found() -> list[tuple[int, bytes]]:
        tensors = (*step.memory(), *step.model.parameters(), *step.model.buffers())
        return [
            (tensor.data_ptr(), tensor.detach().view(torch.uint8).numpy().tobytes()) for tensor in map(flat, tensors)
        ]

    before, random = found(), torch.get_rng_state()
    values = telemetry.measure(step, spec, data, 1)
    assert found() == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in step.model.parameters())
    assert telemetry.measure(step, spec, data, 1) == values


def flat(tensor: Tensor) -> Tensor:
    """Return a tensor as one dimension, in the same memory."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


@pytest.fixture
def measured(make_spec: Any, synthetic: ImageDataset) -> tuple[TrainingSpec, nn.Module, list[Batch]]:
    """A training with batch normalization, its model, and the batches of the loss."""
    spec = make_spec(
        normalization={"type": "batch"}, batch_size=8, label_smoothing=0.1, dataset={"train_limit": 16, "test_limit": 8}
    )
    batches = gradient_telemetry.probe(spec, TrainingData(spec, synthetic))
    return spec, build_model(spec.model, spec.normalization, seed=1).eval(), list(batches)


def loss_and_gradient(model: nn.Module, batches: list[Batch]) -> tuple[Tensor, list[Tensor]]:
    losses = [F.cross_entropy(model(images), labels, label_smoothing=0.1) for images, labels in batches]
    loss = torch.stack(losses).mean()
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))


def test_the_values_agree_with_the_definition(measured: tuple[TrainingSpec, nn.Module, list[Batch]]) -> None:
    spec, model, batches = measured
    values = gradient_telemetry.measure(model, spec, batches, 0.1)

    loss, gradient = loss_and_gradient(copy.deepcopy(model).train(), batches)
    losses, distances, ratios = [float(loss)], [], []
    for length in (0.05, 0.1, 0.2, 0.4):
        moved = copy.deepcopy(model).train()
        with torch.no_grad():
            for parameter, part in zip(moved.parameters(), gradient, strict=True):
                parameter.copy_(parameter - length * part)
        loss, there = loss_and_gradient(moved, batches)
        losses.append(float(loss))
        distances.append(norm([a - b for a, b in zip(there, gradient, strict=True)]))
        ratios.append(distances[-1] / (length * norm(gradient)))
    names = [name for name, _ in model.named_parameters()]
    stages = {"stem": "stem", **{f"stages.{n}": f"stages.{n}." for n in range(3)}, "classifier": "classifier."}
    assert values == pytest.approx(
        {
            f"{stage}/stage_gradient_norm": norm(
                [part for name, part in zip(names, gradient, strict=True) if name.startswith(prefix)]
            )
            for stage, prefix in stages.items()
        }
        | {
            "gradient_norm": norm(gradient),
            "gradient_distance_min": min(distances),
            "gradient_distance_max": max(distances),
            "step_loss_min": min(losses),
            "step_loss_max": max(losses),
            "effective_smoothness": max(ratios),
        },
        rel=1e-3,
    )


def test_the_points_keep_a_distance_when_the_schedule_ends(
    measured: tuple[TrainingSpec, nn.Module, list[Batch]],
) -> None:
    spec, model, batches = measured
    least = spec.scaled_learning_rate * gradient_telemetry.LEAST_SHARE
    values = gradient_telemetry.measure(model, spec, batches[:1], 0.0)
    assert values == gradient_telemetry.measure(model, spec, batches[:1], least)
    assert values["gradient_distance_max"] > 0


def test_a_step_that_ends_outside_of_float32_has_an_infinite_distance(make_spec: Any, synthetic: ImageDataset) -> None:
    spec = make_spec(normalization={"type": "none"}, batch_size=4, dataset={"train_limit": 4})
    model = build_model(spec.model, spec.normalization, seed=1)
    batches = gradient_telemetry.probe(spec, TrainingData(spec, synthetic))
    values = gradient_telemetry.measure(model, spec, batches, 1e30)
    assert values["gradient_distance_max"] == values["step_loss_max"] == math.inf
    assert math.isfinite(values["gradient_norm"])


def test_the_row_is_of_the_learning_rate_of_the_latest_step(make_spec: Any, synthetic: ImageDataset) -> None:
    spec = make_spec(batch_size=8, schedule={"type": "cosine"}, dataset={"train_limit": 16, "test_limit": 8})
    data, step = TrainingData(spec, synthetic), StaticStep(spec, torch.device("cpu"), "float32")
    batches, rate = gradient_telemetry.probe(spec, data), learning_rate(spec, 2)
    assert rate < learning_rate(spec, 1)
    values = telemetry.measure(step, spec, data, 3)
    for name, value in gradient_telemetry.measure(step.model, spec, batches, rate).items():
        assert values[name] == float(f"{value:.4g}")


@pytest.mark.parametrize(
    ("batch_size", "num_train", "sizes"),
    [(2, 64, [2] * 32), (8, 300, [8] * 16), (48, 300, [48] * 2), (200, 300, [128]), (16, 20, [16])],
)
def test_the_loss_is_over_batches_of_the_training(
    make_spec: Any, synthetic: ImageDataset, batch_size: int, num_train: int, sizes: list[int]
) -> None:
    spec = make_spec(batch_size=batch_size, dataset={"train_limit": num_train})
    data = TrainingData(spec, synthetic)
    batches = gradient_telemetry.probe(spec, data)
    assert [len(labels) for _, labels in batches] == sizes
    images, labels, _ = next(data.plain_batches("train", sum(sizes)))
    assert torch.equal(torch.cat([batch for batch, _ in batches]), images)
    assert torch.equal(torch.cat([of_batch for _, of_batch in batches]), labels)


def test_it_does_not_wait_for_other_workers(make_spec: Any, synthetic: ImageDataset) -> None:
    class Others(ProcessGroup):
        world_size = 2

        def gather_tensor(self, tensor: Tensor) -> NoReturn:
            raise AssertionError("it communicates")

    spec = make_spec(normalization={"type": "sync_batch"}, batch_size=4, num_workers=2, drop_last=True)
    batches = gradient_telemetry.probe(spec, TrainingData(spec, synthetic))
    assert {len(labels) for _, labels in batches} == {8}
    model = build_model(spec.model, spec.normalization, seed=0)
    layers: list[Any] = [layer for layer in model.modules() if hasattr(layer, "process_group")]
    assert layers
    for layer in layers:
        layer.process_group = Others()
    assert gradient_telemetry.measure(model, spec, batches[:1], 0.1)["gradient_norm"] > 0
