"""gn.group_norm against float64, for every activation, dtype and layout."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gn
from tests.unit.gn import oracle

SHAPES = {
    "vector": ((6, 12), 3),
    "sequence": ((3, 10, 7), 5),
    "image": ((4, 8, 6, 5), 2),
    "volume": ((2, 6, 3, 4, 5), 3),
    "layer norm": ((3, 5, 4, 4), 1),
    "instance norm": ((3, 5, 4, 4), 5),
    "narrow": ((2, 3, 9, 9), 3),
    "wide": ((2, 96, 4, 4), 8),
    "resnet20": ((2, 16, 16, 16), 8),
    "resnet18": ((2, 64, 16, 16), 32),
    "last stage": ((3, 512, 4, 4), 32),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
GRADIENTS = ("x", "weight", "bias", "residual")


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def arguments(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    return {
        "x": (torch.randn(shape, generator=generator) * 2 + 0.5).to(dtype),
        "weight": torch.randn(shape[1], generator=generator).to(parameter),
        "bias": torch.randn(shape[1], generator=generator).to(parameter),
        "residual": torch.randn(shape, generator=generator).to(dtype),
        "dy": torch.randn(shape, generator=generator).to(dtype),
    }


@pytest.mark.parametrize("layout", [torch.clone, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_float64(shape: str, dtype: torch.dtype, layout: object) -> None:
    size, num_groups = SHAPES[shape]
    for activation, with_residual in itertools.product(oracle.ACTIVATIONS, (False, True)):
        given = arguments(size, dtype)
        dy = layout(given.pop("dy"))
        given["x"] = layout(given["x"])
        if with_residual:
            given["residual"] = layout(given["residual"])
        else:
            del given["residual"]
        leaves = {name: tensor.requires_grad_() for name, tensor in given.items()}
        y = gn.group_norm(num_groups=num_groups, activation=activation, **leaves)
        y.backward(dy)

        expected = oracle.group_norm(num_groups=num_groups, activation=activation, dy=dy, **given)
        assert y.dtype == dtype
        assert oracle.error(y, expected["y"]) < oracle.TOLERANCE[dtype]
        for name, leaf in leaves.items():
            assert leaf.grad.dtype == leaf.dtype
            assert oracle.error(leaf.grad, expected[name]) < 4 * oracle.TOLERANCE[dtype], (name, activation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_result_has_the_layout_of_the_input(dtype: torch.dtype) -> None:
    x = torch.randn(2, 8, 4, 4, dtype=dtype)
    assert gn.group_norm(x, 2, activation="relu").is_contiguous()
    y = gn.group_norm(channels_last(x), 2, activation="relu")
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_half_precision_parameters_are_welcome() -> None:
    x = torch.randn(2, 8, 4, 4, dtype=torch.bfloat16)
    weight = torch.randn(8, dtype=torch.bfloat16, requires_grad=True)
    gn.group_norm(x, 2, weight).sum().backward()
    assert weight.grad.dtype == torch.bfloat16


def test_a_residual_of_another_dtype_is_added_in_that_of_x() -> None:
    x, residual = torch.randn(2, 8, 4, dtype=torch.bfloat16), torch.randn(2, 8, 4, requires_grad=True)
    y = gn.group_norm(x, 2, residual=residual)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert residual.grad.dtype == torch.float32


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("negated", ["x", "weight", "bias", "residual", "dy"])
def test_a_view_of_the_negative_is_read_as_what_it_stands_for(negated: str) -> None:
    results = []
    for view in (torch._neg_view, torch.neg):
        given = arguments((2, 4, 3), torch.float32)
        given[negated] = view(given[negated])
        dy = given.pop("dy")
        leaves = [tensor.requires_grad_() for tensor in given.values()]
        y = gn.group_norm(num_groups=2, activation="silu", **given)
        results.append([y, *torch.autograd.grad(y, leaves, dy)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("shape", "num_groups", "options", "error", "message"),
    [
        ((4,), 1, {}, RuntimeError, "Expected at least 2 dimensions"),
        ((2, 6, 4), 4, {}, RuntimeError, "divisible by num_groups.*shape \\[2, 6, 4\\] and num_groups=4"),
        ((2, 6, 4), 0, {}, ZeroDivisionError, "num_groups must be at least 1"),
        ((2, 6, 4), -2, {}, RuntimeError, "num groups to be greater than 0, got -2"),
        ((2, 6, 4), 2.0, {}, TypeError, "num_groups must be an int, got 2.0"),
        ((2, 6, 4), torch.tensor(2.0), {}, TypeError, r"num_groups must be an int, got tensor\(2.\)"),
        ((2, 6, 4), torch.tensor([2]), {}, TypeError, r"num_groups must be an int, got tensor\(\[2\]\)"),
        ((2, 6, 4), True, {}, TypeError, "num_groups must be an int, got True"),
        ((2, 6, 4), 2, {"eps": None}, TypeError, "eps must be a float, got None"),
        ((2, 6, 4), 2, {"eps": "1e-5"}, TypeError, "eps must be a float, got '1e-5'"),
        ((1, 4), 4, {}, ValueError, r"more than 1 value per channel.*\[1, 4\]"),
        ((2, 6, 4), 2, {"weight": torch.ones(5)}, RuntimeError, r"Expected weight .* \[5\]"),
        ((2, 6, 4), 2, {"bias": torch.ones(6, 1)}, RuntimeError, r"Expected bias .* \[6, 1\]"),
        ((2, 6, 4), 2, {"weight": torch.ones(6).half()}, RuntimeError, "expected weight of torch.float32"),
        ((2, 6, 4), 2, {"weight": torch.ones(6, device="meta")}, RuntimeError, "weight on the device of x, cpu"),
        ((2, 6, 4), 2, {"weight": 1.0}, TypeError, "weight must be a Tensor, got 1.0"),
        ((2, 6, 4), 2, {"residual": torch.ones(2, 6, 1)}, ValueError, r"residual .*\[2, 6, 4\], got \[2, 6, 1\]"),
        ((2, 6, 4), 2, {"residual": torch.ones(2, 6, 4, device="meta")}, RuntimeError, "residual on the device of x"),
        ((2, 6, 4), 2, {"activation": "tanh"}, ValueError, "one of 'relu', 'silu', 'gelu', got 'tanh'"),
        ((2, 6, 4), 2, {"activation": ["relu"]}, ValueError, r"one of 'relu', 'silu', 'gelu', got \['relu'\]"),
    ],
)
def test_refuses_bad_arguments(
    shape: tuple[int, ...], num_groups: int, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gn.group_norm(torch.ones(shape), num_groups, **options)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_refuses_what_is_not_a_real_floating_point_tensor(dtype: torch.dtype) -> None:
    with pytest.raises(NotImplementedError, match=f"float64, got {dtype}"):
        gn.group_norm(torch.ones(2, 4, 4).to(dtype), 2)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("make", [np.int64, np.uint8, torch.tensor], ids=["int64", "uint8", "tensor"])
def test_counts_may_be_of_any_integer_type(make: Callable[[int], Any]) -> None:
    x = torch.randn(2, 6, 4)
    expected = gn.group_norm(x, 2, eps=0.5)
    assert torch.equal(gn.group_norm(x, make(2), eps=np.float32(0.5)), expected)
    assert torch.equal(gn.group_norm(x, 2, eps=torch.tensor(0.5)), expected)
    layer = gn.GroupNorm(make(2), make(6), eps=0.5)
    assert torch.equal(layer(x), expected)
    assert repr(layer) == repr(torch.nn.GroupNorm(2, 6, eps=0.5))


def test_weight_and_bias_share_a_dtype() -> None:
    x = torch.ones(2, 4, 4).bfloat16()
    with pytest.raises(RuntimeError, match="expected bias of the dtype of weight"):
        gn.group_norm(x, 2, torch.ones(4), torch.ones(4).bfloat16())
