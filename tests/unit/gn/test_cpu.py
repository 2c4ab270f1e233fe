"""The accuracy and the edge cases of the CPU kernels in both memory formats; torch 2.13 fails some of them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import gn
from tests.unit.gn import oracle
from tests.unit.gn.test_functional import arguments, channels_last

LAYOUTS = {"contiguous": torch.clone, "channels_last": channels_last}
HALVES = [torch.float32, torch.bfloat16, torch.float16]

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(params=LAYOUTS, name="layout")
def _layout(request: pytest.FixtureRequest) -> object:
    return LAYOUTS[request.param]


def train(x: Tensor, num_groups: int, dy: Tensor, **options: object) -> list[Tensor]:
    """Return the result and every gradient."""
    leaves = [x, *(value for value in options.values() if isinstance(value, Tensor))]
    for leaf in leaves:
        leaf.grad = None
        leaf.requires_grad_()
    y = gn.group_norm(x, num_groups, **options)
    y.backward(dy)
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_bias_needs_no_weight(layout: object, activation: str | None) -> None:
    x, bias, dy = layout(torch.randn(3, 8, 5, 5)), torch.randn(8), torch.randn(3, 8, 5, 5)
    _, dx, dbias = train(x, 4, dy, bias=bias, activation=activation)
    expected = oracle.group_norm(x, 4, bias=bias, activation=activation, dy=dy)
    assert oracle.error(dx, expected["x"]) < 1e-5
    assert oracle.error(dbias, expected["bias"]) < 1e-5


@pytest.mark.parametrize("learned", [("x",), ("weight",), ("bias",), ("residual",), ("weight", "bias")], ids="+".join)
def test_any_of_the_inputs_may_be_learned(layout: object, learned: tuple[str, ...]) -> None:
    given_ = arguments((3, 8, 5, 5), torch.float32)
    dy = given_.pop("dy")
    given_["x"], given_["residual"] = layout(given_["x"]), layout(given_["residual"])
    for name in learned:
        given_[name].requires_grad_()
    gn.group_norm(num_groups=4, activation="relu", **given_).backward(dy)
    expected = oracle.group_norm(num_groups=4, activation="relu", dy=dy, **given_)
    for name, tensor in given_.items():
        assert (tensor.grad is not None) == (name in learned)
        if name in learned:
            assert oracle.error(tensor.grad, expected[name]) < 1e-5


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("mean", "std"), [(1e4, 1.0), (1e3, 1e-1), (-1e2, 1e-3)])
def test_a_mean_far_from_zero_costs_no_more_digits_than_in_torch(
    layout: object, dtype: torch.dtype, mean: float, std: float, capsys: pytest.CaptureFixture[str]
) -> None:
    x = layout((torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0)) * std + mean).to(dtype))
    expected = oracle.group_norm(x, 2)["y"]
    ours = oracle.error(gn.group_norm(x, 2), expected)
    theirs = oracle.error(F.group_norm(x, 2), expected)
    with capsys.disabled():
        name = "channels_last" if layout is channels_last else "contiguous"
        print(f"\n  {dtype}, {name}, {mean:g} ± {std:g}: error {ours:.1e}, torch's {theirs:.1e}")
    assert ours <= max(theirs, oracle.TOLERANCE[dtype])


@pytest.mark.parametrize("places", ["of all channels", "of a whole group"])
def test_values_unlike_the_rest_where_the_kernels_look_first_cost_no_digits(layout: object, places: str) -> None:
    x = torch.randn(2, 8, 96, 96)
    # The kernels shift by a few values of a group when they compute variances; here these are far from the mean.
    size = 96 * 96 * (1 if places == "of all channels" else 4)
    rows = x.view(2, -1, size)
    for k in range(4):
        for at in ((2 * k + 1) * size // 8, (2 * k + 1) * (size - 16) // 8):
            rows[..., at : at + 16] = 1000.0
    x = layout(x)
    assert oracle.error(gn.group_norm(x, 2), oracle.group_norm(x, 2)["y"]) < oracle.TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_values_of_a_constant_group_become_the_bias(layout: object, dtype: torch.dtype) -> None:
    x, bias = layout(torch.full((2, 4, 6, 6), 3.7, dtype=dtype)), torch.tensor([1.0, -2.0, 3.0, 4.0])
    y, dx, *_ = train(x, 2, torch.ones(2, 4, 6, 6, dtype=dtype), weight=torch.ones(4), bias=bias)
    assert torch.equal(y, bias.to(dtype).reshape(1, 4, 1, 1).expand_as(y))
    assert not dx.any()


def test_a_group_of_one_value_becomes_the_bias() -> None:
    bias = torch.randn(6)
    y, dx, *_ = train(torch.randn(5, 6), 6, torch.randn(5, 6), weight=torch.randn(6), bias=bias)
    assert torch.equal(y, bias.expand(5, 6))
    assert dx.abs().max() < 1e-3  # of terms near 1 / sqrt(eps), 316, which cancel


@pytest.mark.parametrize("shape", [(0, 4), (0, 4, 3, 3), (2, 4, 0)])
def test_an_empty_batch_has_an_empty_result_and_zero_gradients(shape: tuple[int, ...]) -> None:
    y, dx, dweight, dbias, dresidual = train(
        torch.empty(shape),
        2,
        torch.empty(shape),
        weight=torch.ones(4),
        bias=torch.ones(4),
        residual=torch.empty(shape),
        activation="relu",
    )
    assert y.shape == dx.shape == dresidual.shape == shape
    assert not dweight.any()
    assert not dbias.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e20, 1e30])
def test_a_group_whose_variance_overflows_becomes_nan(layout: object, dtype: torch.dtype, scale: float) -> None:
    x = torch.randn(2, 8, 6, 6)
    x[1, 4:] *= scale
    y, dx, dweight, dbias = train(
        layout(x.to(dtype)),
        2,
        torch.ones_like(x, dtype=dtype),
        weight=torch.ones(8),
        bias=torch.ones(8),
        activation="relu",
    )
    for result in (y, dx):
        assert result[1, 4:].isnan().all()
        assert not result[0].isnan().any()
        assert not result[1, :4].isnan().any()
    assert dweight.isnan().tolist() == [False] * 4 + [True] * 4
    assert not dbias.isnan().any()


def test_values_just_below_the_overflow_are_normalized(layout: object) -> None:
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(gn.group_norm(layout(x * 1e17), 2), gn.group_norm(layout(x), 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", oracle.ACTIVATIONS)
def test_nan_goes_through_and_stays_in_its_group(layout: object, activation: str | None) -> None:
    x = layout(torch.randn(2, 4, 5, 5))
    x[1, 2, 3, 3] = torch.nan
    y = gn.group_norm(x, 2, activation=activation)
    assert y[1, 2:].isnan().all()
    assert not y[0].isnan().any()
    assert not y[1, :2].isnan().any()


def test_nan_in_a_weight_stays_in_its_group(layout: object) -> None:
    weight = torch.ones(40)
    weight[3] = torch.nan
    # Groups of 2 channels: many of them lie in one vector of weights.
    dx = train(layout(torch.randn(2, 40, 4, 4)), 20, torch.randn(2, 40, 4, 4), weight=weight)[1]
    assert dx.isnan().any(3).any(2).any(0).nonzero().flatten().tolist() == [2, 3]


def test_nan_in_the_residual_goes_through_relu_forward_and_backward(layout: object) -> None:
    residual = layout(torch.zeros(2, 4, 5, 5))
    residual[0, 1, 2, 3] = torch.nan
    y, *_, dresidual = train(
        layout(torch.randn(2, 4, 5, 5)), 2, torch.ones(2, 4, 5, 5), residual=residual, activation="relu"
    )
    assert y.isnan().nonzero().tolist() == [[0, 1, 2, 3]]
    assert dresidual[0, 1, 2, 3] == 1


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_activations_hold_far_from_zero(activation: str, backend: str) -> None:
    # The residual alone reaches the activation: x is constant.
    z = torch.cat([torch.linspace(-30, 30, 4001), torch.tensor([0.0, -0.0, 1e-20, -1e-20, 1e4, -1e4])]).reshape(
        1, 1, -1
    )
    x = torch.zeros_like(z)
    y, _, dz = train(x, 1, torch.ones_like(z), residual=z, activation=activation)
    value, derivative = oracle.ACTIVATIONS[activation]
    # torch's own GELU, in the reference, loses its tail to 1 - erf.
    smallest = 1e-6 if backend == "reference" else 1e-9
    assert oracle.float64(y) == pytest.approx(value(oracle.float64(z)), rel=3e-6, abs=smallest)
    assert oracle.float64(dz) == pytest.approx(derivative(oracle.float64(z)), rel=3e-6, abs=2e-6)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("shape", [(5, 24, 9, 9), (70, 16, 4, 4), (1, 128, 8, 8)])
def test_results_are_the_same_bit_for_bit_for_any_number_of_threads(
    layout: object, shape: tuple[int, ...], dtype: torch.dtype, backend: str
) -> None:
    given_ = arguments(shape, dtype)
    x, dy = layout(given_.pop("x")), layout(given_.pop("dy"))
    threads = torch.get_num_threads()
    runs = []
    # The sums of torch, in the reference, depend on the number of threads.
    for count in (2, 2) if backend == "reference" else (1, 2, 2, 5):
        torch.set_num_threads(count)
        runs.append([t.clone() for t in train(x, 8, dy, activation="relu", **given_)])
    torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_groups_that_need_a_second_pass_leave_their_neighbours_as_they_are(layout: object, dtype: torch.dtype) -> None:
    ordinary = torch.randn(1, 128, 16, 16)
    far = ordinary.clone()
    for group in (3, 17):
        # The kernels sample these values first, and sum the squares again if the sample is far from the mean.
        rows = far[0, 4 * group : 4 * group + 4].view(4, -1)
        for k in range(4):
            rows[:, (2 * k + 1) * 256 // 8] = 1000.0
            rows.view(-1)[(2 * k + 1) * (1024 - 16) // 8 :][:16] = 1000.0
    same = [group for group in range(32) if group not in (3, 17)]
    y, z = (gn.group_norm(layout(x.to(dtype)), 32).reshape(32, -1) for x in (ordinary, far))
    assert torch.equal(y[same], z[same])


def test_every_value_of_the_results_is_written(layout: object) -> None:
    # Deterministic mode fills new memory with NaN.
    torch.use_deterministic_algorithms(True)
    try:
        for shape, num_groups in (((3, 12, 7, 5), 3), ((2, 16, 32), 4), ((2, 67, 3, 3), 1)):
            given_ = arguments(shape, torch.float32)
            dy = given_.pop("dy")
            given_["x"] = layout(given_["x"])
            for activation in oracle.ACTIVATIONS:
                results = train(num_groups=num_groups, dy=dy, activation=activation, **given_)
                assert not any(result.isnan().any() for result in results)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("upstream", ["contiguous", "channels_last", "transposed", "expanded"])
def test_the_upstream_gradient_may_have_any_layout(layout: object, upstream: str) -> None:
    x = layout(torch.randn(3, 8, 6, 6)).requires_grad_()
    dy = {
        "contiguous": torch.randn(3, 8, 6, 6),
        "channels_last": channels_last(torch.randn(3, 8, 6, 6)),
        "transposed": torch.randn(3, 8, 6, 6).transpose(2, 3),
        "expanded": torch.randn(1, 8, 1, 1).expand(3, 8, 6, 6),
    }[upstream]
    gn.group_norm(x, 4, activation="relu").backward(dy)
    assert oracle.error(x.grad, oracle.group_norm(x, 4, activation="relu", dy=dy)["x"]) < 1e-5


def layouts_of(x: Tensor) -> list[Tensor]:
    """Return the same values in every memory layout that a network may produce."""
    wide = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
    wide[..., ::2] = x
    orders = [order for order in itertools.permutations(range(x.dim())) if order[0] == 0][:3]
    permuted = [x.permute(order).contiguous().permute(torch.tensor(order).argsort().tolist()) for order in orders]
    return [x, channels_last(x), wide[..., ::2], x.flip(0).flip(0), *permuted]


@given(
    samples=st.integers(1, 5),
    num_groups=st.integers(1, 6),
    group_channels=st.integers(1, 7),
    positions=st.lists(st.integers(1, 9), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    activation=st.sampled_from(list(oracle.ACTIVATIONS)),
    with_residual=st.booleans(),
    layout=st.integers(0, 6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_any_shape_layout_and_dtype_agrees_with_float64(
    samples: int,
    num_groups: int,
    group_channels: int,
    positions: list[int],
    dtype: torch.dtype,
    activation: str | None,
    with_residual: bool,
    layout: int,
    seed: int,
) -> None:
    shape = (samples, num_groups * group_channels, *positions)
    if samples * group_channels * torch.Size(positions).numel() == 1:
        return  # a single value in every group is refused
    given_ = arguments(shape, dtype, seed)
    dy = given_.pop("dy")
    if not with_residual:
        del given_["residual"]
    variants = layouts_of(given_["x"])
    given_["x"] = variants[layout % len(variants)].detach()
    y, *gradients = train(num_groups=num_groups, dy=dy, activation=activation, **given_)
    expected = oracle.group_norm(num_groups=num_groups, dy=dy, activation=activation, **given_)
    assert oracle.error(y, expected["y"]) < 2 * oracle.TOLERANCE[dtype]
    for name, gradient in zip(given_, gradients, strict=True):
        # In a small group the terms may cancel almost completely.
        assert oracle.error(gradient, expected[name], expected[f"terms of {name}"]) < 4 * oracle.TOLERANCE[dtype], name
