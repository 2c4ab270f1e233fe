"""The networks agree with their architectures and are initialized from the seed."""

import copy
from collections.abc import Callable, Iterable
from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.nn import functional as F

import gn
from worker.architecture import ARCHITECTURES, FeatureMap, ModelName
from worker.models import build_model
from worker.models.resnet import ResidualBlock
from worker.normalizations.layers import BatchNorm, FormulaLayer, NoNorm
from worker.normalizations.registry import NORMALIZATIONS, Normalization

NORMALIZATION: TypeAdapter[Normalization] = TypeAdapter(Normalization)


def cases(*types: str, others: Iterable[str]) -> list[tuple[str, str]]:
    """Return some normalizations with every model, and the others with the smallest model."""
    every = [(model, type) for model in get_args(ModelName) for type in types]
    return every + [("resnet20", type) for type in sorted(set(others) - set(types))]


def normalization(type: str, **given: object) -> Normalization:
    return NORMALIZATION.validate_python({"type": type, **given})


def is_normalization(module: nn.Module) -> bool:
    return isinstance(module, nn.GroupNorm | BatchNorm | FormulaLayer | NoNorm)


def met_in_a_forward_pass(network: nn.Module) -> list[FeatureMap]:
    """The input of each normalization layer, in the order of the forward pass."""
    met: list[FeatureMap] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: met.append(FeatureMap(name, inputs[0].shape[1], inputs[0].shape[3]))

    for name, module in network.named_modules():
        if is_normalization(module):
            module.register_forward_pre_hook(watch(name))
    network(torch.zeros(2, 3, 32, 32))
    return met


@pytest.mark.parametrize(("model", "type"), cases("group", "none", others=NORMALIZATIONS))
def test_a_network_normalizes_exactly_the_feature_maps_of_its_architecture(model: ModelName, type: str) -> None:
    network = build_model(model, normalization(type), seed=0)

    assert met_in_a_forward_pass(network) == list(ARCHITECTURES[model].feature_maps())


@pytest.mark.parametrize(
    ("model", "parameters"),
    [("resnet20", 269_722), ("resnet56", 853_018), ("resnet18", 11_173_962), ("vgg", 14_728_266)],
)
@pytest.mark.parametrize("type", ["batch", "layer", "instance", "group"])
def test_every_normalization_with_a_scale_and_a_shift_gives_the_published_number_of_parameters(
    model: ModelName, parameters: int, type: str
) -> None:
    network = build_model(model, normalization(type), seed=0)

    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_vgg_has_thirteen_convolutions_with_bias() -> None:
    network = build_model("vgg", normalization("group"), seed=0)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]

    assert len(convolutions) == 13
    assert all(convolution.bias is not None for convolution in convolutions)


@pytest.mark.parametrize("type", ["batch", "layer", "instance", "group"])
def test_without_affine_the_normalization_has_no_parameters(type: str) -> None:
    network = build_model("resnet20", normalization(type, affine=False), seed=0)

    assert not [name for name, _ in network.named_parameters() if "norm" in name]


@pytest.mark.parametrize(
    ("model", "type"), cases("layer", "instance", "group", others=NORMALIZATIONS.keys() - {"none", "batch"})
)
def test_normalizations_share_the_initial_convolutions_and_classifier_of_a_seed(model: ModelName, type: str) -> None:
    one = build_model(model, normalization("batch"), seed=3).state_dict()
    other = build_model(model, normalization(type), seed=3).state_dict()
    shared = [name for name in one if "norm" not in name]

    assert "classifier.weight" in shared
    for name in shared:
        assert torch.equal(one[name], other[name]), name


def test_without_normalization_only_the_last_convolution_of_each_block_starts_otherwise() -> None:
    one = build_model("resnet20", normalization("group"), seed=3).state_dict()
    other = build_model("resnet20", normalization("none"), seed=3).state_dict()

    assert {name for name in other if not torch.equal(one[name], other[name])} == {
        f"stages.{stage}.{block}.conv2.weight" for stage in range(3) for block in range(3)
    }


@pytest.mark.parametrize("type", NORMALIZATIONS)
@pytest.mark.parametrize("model", ["resnet20", "resnet18"])
def test_a_residual_block_starts_as_its_shortcut(model: ModelName, type: str) -> None:
    network = build_model(model, normalization(type), seed=0)
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]

    for block in blocks:
        x = torch.randn(2, block.conv1.in_channels, 8, 8)
        shortcut = copy.deepcopy(block).join(x)  # a copy, because training changes the running averages
        for y in block((x, x)):
            torch.testing.assert_close(y, shortcut.relu())


def test_layers_whose_output_a_residual_network_uses_twice_return_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_model("resnet20", normalization("group"), seed=0)
    names = {module: name for name, module in network.named_modules()}
    returned_twice = []
    forward = gn.GroupNorm.forward

    def recorded(layer: gn.GroupNorm, *given: Tensor, return_skip: bool = False) -> object:
        returned_twice.extend([names[layer]] * return_skip)
        return forward(layer, *given, return_skip=return_skip)

    monkeypatch.setattr(gn.GroupNorm, "forward", recorded)
    network(torch.randn(2, 3, 32, 32))
    norms = [f"stages.{stage}.{block}.norm2" for stage in range(3) for block in range(3)]
    assert returned_twice == ["stem_norm", *norms]


def test_the_initialization_is_a_function_of_the_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build_model("resnet20", normalization("group"), seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again = build_model("resnet20", normalization("group"), seed=1).state_dict()
    other = build_model("resnet20", normalization("group"), seed=2).state_dict()

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


@pytest.mark.parametrize("model", get_args(ModelName))
def test_convolutions_have_the_standard_deviation_of_he_and_biases_are_zero(model: ModelName) -> None:
    network = build_model(model, normalization("group"), seed=0)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            deviation = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            # Five standard errors of an estimated deviation.
            tolerance = 5 * deviation / (2 * module.weight.numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(deviation, abs=tolerance)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            assert not module.bias.any()


@pytest.mark.parametrize("type", NORMALIZATIONS)
@pytest.mark.parametrize("model", ["resnet20", "vgg"])
def test_every_parameter_learns_after_the_first_step(model: ModelName, type: str) -> None:
    network = build_model(model, normalization(type), seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        optimizer.zero_grad()
        network(images).square().sum().backward()
        optimizer.step()
    # A normalization removes a shift of all its inputs, up to rounding.
    learning = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}

    assert learning == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_padded_shortcut_is_that_of_slices_and_padding_bit_for_bit(dtype: torch.dtype) -> None:
    block = ResidualBlock(5, 12, 2, "pad", normalization("batch"))
    x = torch.randn(2, 5, 7, 6, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 4))
    dy = torch.randn_like(expected)

    found = block.join(x)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(*(torch.autograd.grad(y, x, dy)[0] for y in (found, expected)))
