"""What holds for the layer of every normalization."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.unit.worker.normalizations.definitions import batch, make, specification
from worker.normalizations.layers import with_skip
from worker.normalizations.registry import NORMALIZATIONS

every_normalization = pytest.mark.parametrize("kind", NORMALIZATIONS)
NOT_THE_DERIVATIVE = {"batch_channel_ws", "online"}
"""Normalizations whose backward pass in training is another one by design; the tests of their definitions state it."""


def tensors(number: int = 0, images: int = 4) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(batch(number, images)), torch.from_numpy(batch(number + 50, images))


@every_normalization
def test_neither_the_input_nor_the_residual_is_written_to(kind: str) -> None:
    layer = make({"type": kind}, "relu")
    x, residual = tensors()
    before = x.clone(), residual.clone()
    layer(x, residual)
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])


@every_normalization
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_output_has_the_dtype_and_the_memory_format_of_the_input(
    kind: str, memory_format: torch.memory_format, dtype: torch.dtype
) -> None:
    layer = make({"type": kind}, "relu").float()
    x, residual = (given.to(dtype).to(memory_format=memory_format).requires_grad_() for given in tensors())
    y, skip = with_skip(layer, x, residual)
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert y.is_contiguous(memory_format=memory_format)
    (y.float().sum() + skip.float().sum()).backward()
    for given in (x, residual):
        assert given.grad is not None
        assert given.grad.dtype == dtype
    assert all(buffer.dtype != torch.bfloat16 for buffer in layer.buffers())


@every_normalization
def test_bfloat16_rounds_the_output_and_not_the_statistics(kind: str) -> None:
    layer = make({"type": kind}, "relu").float()
    x, residual = (given.bfloat16() for given in tensors())
    exact = copy.deepcopy(layer)(x.float(), residual.float())
    torch.testing.assert_close(layer(x, residual).float(), exact, rtol=2e-2, atol=4e-2)


@pytest.mark.parametrize(
    ("kind", "training"),
    [(kind, mode) for kind in NORMALIZATIONS for mode in (True, False) if not (mode and kind in NOT_THE_DERIVATIVE)],
)
def test_the_gradient_is_the_derivative(kind: str, training: bool) -> None:
    layer = make({"type": kind})
    layer(tensors(1)[0])
    layer.train(training)
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, residual: Tensor, *parameters: Tensor) -> Tensor:
        # A copy, because training changes the running averages.
        given = dict(zip(names, parameters, strict=True))
        return functional_call(copy.deepcopy(layer), given, (x, residual))  # type: ignore[no-any-return]

    x, residual = (given[:2, :, :2, :2].contiguous().requires_grad_() for given in tensors())
    parameters = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(run, (x, residual, *parameters), fast_mode=True)


@every_normalization
def test_evaluation_treats_each_image_by_itself_and_changes_nothing(kind: str) -> None:
    layer = make({"type": kind}, "relu")
    layer(*tensors(1))
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    x, residual = tensors(2)
    alone = [layer(*pair) for pair in zip(x.split(1), residual.split(1), strict=True)]
    torch.testing.assert_close(layer(x, residual), torch.cat(alone))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@every_normalization
def test_training_normalizes_images_together_exactly_where_it_says_so(kind: str) -> None:
    layer = make({"type": kind}, "relu")
    layer(tensors(1)[0])
    x, _ = tensors(2)
    together = copy.deepcopy(layer)(x)[-1:]
    alone = copy.deepcopy(layer)(x[-1:])
    is_one_image = specification({"type": kind}).images_together(4, 1) is None
    assert torch.allclose(together, alone, rtol=1e-9, atol=1e-9) == is_one_image


@every_normalization
def test_it_says_whether_it_replaces_the_filters_or_the_activation(kind: str) -> None:
    formula = specification({"type": kind})
    weight = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(formula.filters(weight), weight) == ("convolution" not in formula.replaces)
    x, _ = tensors()
    plain, activated = make({"type": kind})(x), make({"type": kind}, "relu")(x)
    assert torch.allclose(activated, plain.relu()) == ("activation" not in formula.replaces)


@every_normalization
def test_the_state_dict_is_the_whole_state(kind: str) -> None:
    layer = make({"type": kind}, "relu")
    for number in range(3):
        layer(*tensors(number))
    fresh: nn.Module = make({"type": kind}, "relu")
    fresh.load_state_dict(layer.state_dict())
    for number in range(3, 5):
        assert torch.equal(layer(*tensors(number)), fresh(*tensors(number)))
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in layer.state_dict().items())
