"""Each normalization has the layer of the literature, with the sum and the activation included."""

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional as F

from worker.normalizations.layers import normalize
from worker.normalizations.registry import Normalization

NORMALIZATION: TypeAdapter[Normalization] = TypeAdapter(Normalization)

REFERENCES: dict[str, tuple[dict[str, Any], nn.Module]] = {
    "batch": ({"type": "batch"}, nn.BatchNorm2d(16)),
    "batch, other numbers": ({"type": "batch", "eps": 0.1, "momentum": 0.5}, nn.BatchNorm2d(16, 0.1, 0.5)),
    "sync_batch, by itself": ({"type": "sync_batch", "eps": 0.1}, nn.BatchNorm2d(16, 0.1)),
    "layer": ({"type": "layer"}, nn.GroupNorm(1, 16)),
    "instance": ({"type": "instance", "eps": 1e-3}, nn.InstanceNorm2d(16, eps=1e-3, affine=True)),
    "group": ({"type": "group"}, nn.GroupNorm(8, 16)),
    "group by count": ({"type": "group", "num_groups": 4, "eps": 0.1}, nn.GroupNorm(4, 16, eps=0.1)),
    "group by size": ({"type": "group", "channels_per_group": 8}, nn.GroupNorm(2, 16)),
    "none": ({"type": "none"}, nn.Identity()),
}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 16, 6, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize("given", REFERENCES)
def test_a_layer_is_the_activation_of_the_normalized_plus_the_residual(given: str, x: torch.Tensor) -> None:
    spec, reference = REFERENCES[given]
    residual = x.flip(0)
    normalization = NORMALIZATION.validate_python(spec)
    normalized = reference(x)

    torch.testing.assert_close(normalize(normalization, 16)(x), normalized)
    torch.testing.assert_close(normalize(normalization, 16)(x, residual), normalized + residual)
    torch.testing.assert_close(normalize(normalization, 16, "relu")(x), F.relu(normalized))
    torch.testing.assert_close(normalize(normalization, 16, "relu")(x, residual), F.relu(normalized + residual))


@pytest.mark.parametrize("given", REFERENCES)
def test_neither_the_input_nor_the_residual_is_written_to(given: str, x: torch.Tensor) -> None:
    layer = normalize(NORMALIZATION.validate_python(REFERENCES[given][0]), 16, "relu")
    residual = x.flip(0)
    before = x.clone(), residual.clone()

    layer(x, residual)

    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])


@pytest.mark.parametrize("given", REFERENCES)
def test_gradients_reach_the_input_and_the_residual(given: str, x: torch.Tensor) -> None:
    spec, reference = REFERENCES[given]
    layer = normalize(NORMALIZATION.validate_python(spec), 16, "relu").double()
    inputs = [x.double().requires_grad_(), x.double().flip(0).requires_grad_()]
    weights = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)

    found = torch.autograd.grad((layer(*inputs) * weights).sum(), inputs)
    expected = torch.autograd.grad((F.relu(reference.double()(inputs[0]) + inputs[1]) * weights).sum(), inputs)
    reference.float()

    torch.testing.assert_close(found, expected)


def test_batch_normalization_evaluates_with_its_running_averages(x: torch.Tensor) -> None:
    layer = normalize(NORMALIZATION.validate_python({"type": "batch", "momentum": 0.5}), 16)
    layer(x)
    layer.eval()

    mean = 0.5 * x.mean((0, 2, 3))
    variance = 0.5 + 0.5 * x.var((0, 2, 3))
    expected = (x - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("type", ["layer", "instance", "group", "none"])
def test_the_other_normalizations_treat_each_image_separately(type: str, x: torch.Tensor) -> None:
    layer = normalize(NORMALIZATION.validate_python({"type": type}), 16)

    torch.testing.assert_close(layer(x), torch.cat([layer(image) for image in x.split(1)]))


@pytest.mark.parametrize("type", ["batch", "layer", "instance", "group"])
def test_affine_is_optional(type: str) -> None:
    with_scale = normalize(NORMALIZATION.validate_python({"type": type}), 16)
    without = normalize(NORMALIZATION.validate_python({"type": type, "affine": False}), 16)

    assert sorted(name for name, _ in with_scale.named_parameters()) == ["bias", "weight"]
    assert not list(without.parameters())


def ghost(size: int | None, **given: Any) -> nn.Module:
    return normalize(NORMALIZATION.validate_python({"type": "batch", "ghost_batch_size": size, **given}), 16)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [2, 3])
def test_a_ghost_batch_is_normalized_like_a_batch_of_its_own(size: int, memory_format: torch.memory_format) -> None:
    x = torch.randn(8, 16, 6, 6, generator=torch.Generator().manual_seed(0)).to(memory_format=memory_format)

    normalized = ghost(size)(x)

    alone = [nn.BatchNorm2d(16)(chunk) for chunk in x.split(size)]  # of 3 images: 3, 3 and 2
    torch.testing.assert_close(normalized, torch.cat(alone))
    assert normalized.is_contiguous(memory_format=memory_format)


def test_the_gradients_of_a_ghost_batch_stay_within_it(x: torch.Tensor) -> None:
    x = x.double().requires_grad_()
    layer = ghost(2).double()
    weights = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)

    found = torch.autograd.grad((layer(x) * weights).sum(), [x, *layer.parameters()])

    reference = nn.BatchNorm2d(16).double()
    alone = torch.cat([reference(chunk) for chunk in x.split(2)])
    torch.testing.assert_close(found, torch.autograd.grad((alone * weights).sum(), [x, *reference.parameters()]))


def test_the_running_averages_are_over_the_ghost_batches_by_their_images(x: torch.Tensor) -> None:
    layer = ghost(3, momentum=0.25)

    layer(x)

    first, last = x[:3], x[3:]
    mean = 0.75 * first.mean((0, 2, 3)) + 0.25 * last.mean((0, 2, 3))
    variance = 0.75 * first.var((0, 2, 3)) + 0.25 * last.var((0, 2, 3))
    state = layer.state_dict()
    torch.testing.assert_close(state["running_mean"], 0.25 * mean)
    torch.testing.assert_close(state["running_var"], 0.75 + 0.25 * variance)
    assert state["num_batches_tracked"] == 1


def test_evaluation_ignores_ghost_batches(x: torch.Tensor) -> None:
    layer = ghost(2)
    layer(x)
    layer.eval()

    torch.testing.assert_close(layer(x), torch.cat([layer(image) for image in x.split(1)]))


@pytest.mark.parametrize("size", [None, 4, 5])
def test_a_ghost_batch_as_large_as_the_batch_is_batch_normalization(size: int | None, x: torch.Tensor) -> None:
    layer, whole, reference = ghost(size), ghost(None), nn.BatchNorm2d(16)

    found = layer(x)

    assert torch.equal(found, whole(x))
    torch.testing.assert_close(found, reference(x))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name])
        torch.testing.assert_close(value, reference.state_dict()[name])


def test_a_ghost_batch_of_bfloat16_keeps_its_statistics_in_float32(x: torch.Tensor) -> None:
    layer = ghost(2)

    assert layer(x.bfloat16()).dtype == torch.bfloat16

    state = layer.state_dict()
    assert state["running_mean"].dtype == state["running_var"].dtype == torch.float32
    mean = torch.stack([chunk.mean((0, 2, 3)) for chunk in x.split(2)]).mean(0)
    torch.testing.assert_close(state["running_mean"], 0.1 * mean, atol=1e-3, rtol=1e-2)
