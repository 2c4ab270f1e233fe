"""gn.batch_norm is torch's batch normalization with a residual, an activation and ghost batches."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import gn
from gn.cpu import kernels
from tests.unit.gn import oracle
from tests.unit.gn.test_cpu import LAYOUTS, layouts_of
from tests.unit.gn.test_functional import arguments, channels_last

Layout = Callable[[Tensor], Tensor]
KERNEL_DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {
    "vector": (6, 12),
    "sequence": (3, 10, 7),
    "image": (4, 8, 6, 5),
    "volume": (2, 6, 3, 4, 5),
    "narrow": (2, 3, 9, 9),
    "wide": (2, 96, 4, 4),
    "resnet20": (5, 16, 16, 16),
    "resnet18": (2, 64, 16, 16),
    "last stage": (3, 512, 4, 4),
    "many samples": (600, 8, 2, 2),
    "large images": (2, 4, 130, 131),
}


def expected_of(
    given_: dict[str, Tensor], activation: str | None, dy: Tensor, size: int | None = None, eps: float = 1e-5
) -> dict[str, np.ndarray]:
    """Return the oracle's results: those of instance normalization, with the samples of a set as further positions."""
    x = given_["x"]
    size = min(size or len(x), len(x))
    parts = []
    for begin in range(0, len(x), size):
        samples = slice(begin, min(begin + size, len(x)))

        def joined(tensor: Tensor, samples: slice = samples) -> Tensor:
            return tensor[samples].detach().double().flatten(2).movedim(0, 1).reshape(1, x.shape[1], -1)

        options: dict[str, Any] = {name: given_[name] for name in ("weight", "bias") if name in given_}
        if "residual" in given_:
            options["residual"] = joined(given_["residual"].reshape(*x.shape, 1))
        found = oracle.group_norm(
            joined(x.reshape(*x.shape, 1)),
            x.shape[1],
            eps=eps,
            activation=activation,
            dy=joined(dy.reshape(*x.shape, 1)),
            **options,
        )
        shape = x[samples].shape
        for name in ("y", "x", "residual"):
            moved = (shape[1], shape[0], *shape[2:])
            found[name] = np.moveaxis(found[name].reshape(moved), 0, 1)
        parts.append(found)
    expected = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name in ("y", "x", "residual"):
            expected[name] = np.concatenate(values)
        else:
            expected[name] = np.sum(values, axis=0) if name in ("weight", "bias") else np.max(values)
    return expected


def train(given_: dict[str, Tensor], dy: Tensor, **options: object) -> list[Tensor]:
    """Return the result and every gradient."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given_.items()}
    y = gn.batch_norm(running_mean=None, running_var=None, training=True, **leaves, **options)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), dy)]


@pytest.fixture(params=LAYOUTS, name="layout")
def _layout(request: pytest.FixtureRequest) -> object:
    return LAYOUTS[request.param]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_float64(shape: str, dtype: torch.dtype, layout: Layout) -> None:
    for activation, with_residual, size in itertools.product((None, "relu", "gelu"), (False, True), (None, 2)):
        given_ = arguments(SHAPES[shape], dtype)
        dy = layout(given_.pop("dy"))
        given_["x"] = layout(given_["x"])
        if not with_residual:
            del given_["residual"]
        y, *gradients = train(given_, dy, activation=activation, ghost_batch_size=size)
        expected = expected_of(given_, activation, dy, size)
        assert y.dtype == dtype
        assert y.stride() == given_["x"].stride()
        assert oracle.error(y, expected["y"]) < 2 * oracle.TOLERANCE[dtype]
        for (name, leaf), gradient in zip(given_.items(), gradients, strict=True):
            assert gradient.dtype == leaf.dtype
            scale = expected[f"terms of {name}"]
            assert oracle.error(gradient, expected[name], scale) < 4 * oracle.TOLERANCE[dtype], (name, activation)


@given(
    samples=st.integers(1, 9),
    channels=st.integers(1, 20),
    positions=st.lists(st.integers(1, 9), max_size=3),
    dtype=st.sampled_from(KERNEL_DTYPES),
    activation=st.sampled_from(list(oracle.ACTIVATIONS)),
    size=st.one_of(st.none(), st.integers(1, 5)),
    layout=st.integers(0, 6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_any_shape_layout_and_dtype_agrees_with_float64(
    samples: int,
    channels: int,
    positions: list[int],
    dtype: torch.dtype,
    activation: str | None,
    size: int | None,
    layout: int,
    seed: int,
) -> None:
    last = samples % min(size or samples, samples) or min(size or samples, samples)
    if last * torch.Size(positions).numel() == 1:
        return  # a single value per channel is refused
    given_ = arguments((samples, channels, *positions), dtype, seed)
    dy = given_.pop("dy")
    variants = layouts_of(given_["x"])
    given_["x"] = variants[layout % len(variants)]
    y, *gradients = train(given_, dy, activation=activation, ghost_batch_size=size)
    expected = expected_of(given_, activation, dy, size)
    assert oracle.error(y, expected["y"]) < 2 * oracle.TOLERANCE[dtype]
    for name, gradient in zip(given_, gradients, strict=True):
        # Of few values the terms may cancel almost completely.
        assert oracle.error(gradient, expected[name], expected[f"terms of {name}"]) < 4 * oracle.TOLERANCE[dtype], name


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", [None, 1, 3, 8, 9])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_running_averages_are_those_of_torch(dtype: torch.dtype, size: int | None, layout: Layout) -> None:
    x = layout((torch.randn(8, 12, 5, 4) * 3 + 10).to(dtype))
    averages = torch.randn(12), torch.rand(12)
    weights = [len(chunk) / 8 for chunk in x.split(size or 8)]
    theirs = []
    for chunk in x.split(size or 8):
        theirs.append((torch.zeros(12), torch.zeros(12)))
        F.batch_norm(chunk.float(), *theirs[-1], training=True, momentum=1)
    expected = [
        0.7 * average + 0.3 * sum(weight * each[at] for weight, each in zip(weights, theirs, strict=True))
        for at, average in enumerate(averages)
    ]

    gn.batch_norm(x, *averages, training=True, momentum=0.3, ghost_batch_size=size)

    for average, mean in zip(averages, expected, strict=True):
        torch.testing.assert_close(average, mean)


@pytest.mark.parametrize("activation", oracle.ACTIVATIONS)
@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_evaluation_normalizes_by_the_running_averages(
    dtype: torch.dtype, activation: str | None, layout: Layout
) -> None:
    for shape in ((6, 12), (4, 8, 6, 5), (2, 64, 4, 4)):
        given_ = arguments(shape, dtype)
        dy = layout(given_.pop("dy"))
        given_["x"] = layout(given_["x"])
        averages = torch.randn(shape[1]), torch.rand(shape[1]) + 0.1
        kept = [average.clone() for average in averages]
        results = []
        for double in (False, True):
            leaves = [(t.double() if double else t).detach().requires_grad_() for t in given_.values()]
            x, weight, bias, residual = leaves
            if double:
                y = F.batch_norm(x, averages[0].double(), averages[1].double(), weight, bias, eps=0.01) + residual
                y = {None: lambda y: y, "relu": F.relu, "silu": F.silu, "gelu": F.gelu}[activation](y)
            else:
                y = gn.batch_norm(
                    x, *averages, weight, bias, eps=0.01, residual=residual, activation=activation, ghost_batch_size=2
                )
            results.append([y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))])
        for ours, theirs in zip(*results, strict=True):
            assert oracle.error(ours, oracle.float64(theirs)) < 6 * oracle.TOLERANCE[dtype]
        assert all(torch.equal(average, before) for average, before in zip(averages, kept, strict=True))


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 12), (3, 8, 5), (2, 16, 6, 6), (70, 8, 3, 3), (2, 4, 2, 3, 2)])
def test_the_extension_and_python_agree_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype, layout: Layout) -> None:
    for activation, absent, size, training in itertools.product(
        kernels.ACTIVATIONS, ((), ("residual",), ("weight", "bias")), (None, 2), (True, False)
    ):
        results = []
        for lane in ("auto", "kernels"):
            given_ = arguments(shape, dtype)
            given_["x"] = layout(given_["x"])
            for name in absent:
                del given_[name]
            dy = given_.pop("dy")
            leaves = [tensor.requires_grad_() for tensor in given_.values()]
            averages = torch.linspace(-1, 1, shape[1]), torch.linspace(0.5, 2, shape[1])
            with gn.backend(lane):
                y = gn.batch_norm(
                    running_mean=averages[0],
                    running_var=averages[1],
                    training=training,
                    activation=activation,
                    ghost_batch_size=size,
                    **given_,
                )
                results.append([y, *averages, *torch.autograd.grad(y, leaves, dy)])
            assert ("gn::batch::BatchNorm" in y.grad_fn.name()) == (lane == "auto")
        for ours, theirs in zip(*results, strict=True):
            assert torch.equal(ours, theirs)
            assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 24, 9, 9), (70, 16, 16, 16), (1, 128, 32, 32), (33, 512, 4, 4)])
@pytest.mark.parametrize("size", [None, 4])
def test_results_are_the_same_bit_for_bit_for_any_number_of_threads(
    layout: Layout, shape: tuple[int, ...], dtype: torch.dtype, size: int | None
) -> None:
    given_ = arguments(shape, dtype)
    dy = layout(given_.pop("dy"))
    given_["x"] = layout(given_["x"])
    threads = torch.get_num_threads()
    runs = []
    for count in (1, 2, 2, 5):
        torch.set_num_threads(count)
        averages = torch.zeros(shape[1]), torch.ones(shape[1])
        gn.batch_norm(given_["x"], *averages, training=True, ghost_batch_size=size)
        runs.append([*averages, *train(given_, dy, activation="relu", ghost_batch_size=size)])
    torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def test_every_value_of_the_results_is_written(layout: Layout) -> None:
    # Deterministic mode fills new memory with NaN.
    torch.use_deterministic_algorithms(True)
    try:
        for shape in ((3, 12, 7, 5), (2, 16, 32), (2, 67, 3, 3), (7, 5)):
            given_ = arguments(shape, torch.float32)
            dy = given_.pop("dy")
            given_["x"] = layout(given_["x"])
            for size in (None, 2):
                if len(shape) == 2 and size:
                    given_, dy = {name: t[:6] if t.dim() == 2 else t for name, t in given_.items()}, dy[:6]
                assert not any(result.isnan().any() for result in train(given_, dy, ghost_batch_size=size))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_a_mean_far_from_zero_costs_no_digits(layout: Layout, dtype: torch.dtype) -> None:
    x = layout((torch.randn(4, 8, 16, 16) * 0.5 + 1e3).to(dtype))
    averages = torch.zeros(8), torch.zeros(8)
    y = gn.batch_norm(x, *averages, training=True, momentum=1.0)
    expected = expected_of({"x": x}, None, x)["y"]
    assert oracle.error(y, expected) < 2 * oracle.TOLERANCE[dtype]
    assert oracle.error(averages[1], x.double().var((0, 2, 3)).numpy()) < 1e-5


def test_values_unlike_the_rest_where_the_kernels_look_first_cost_no_digits(layout: Layout) -> None:
    x = torch.randn(4, 20, 96, 96)
    for sample in range(4):
        # The kernels shift by a few values of a channel when they compute variances; here these are far from the mean.
        rows = x[sample, 3:7].view(4, -1)
        for k in range(16):
            rows[:, (2 * k + 1) * 9216 // 32] = 1000.0
            rows[:, min((2 * k + 1) * 9216 // 8, 9200) :][:, :16] = 1000.0
            rows[:, (2 * (k % 4) + 1) * (9216 - 8) // 8 :][:, :16] = 1000.0
    x = layout(x)
    ordinary = layout(x.clamp(max=10))
    averages = torch.zeros(20), torch.zeros(20)
    y = gn.batch_norm(x, *averages, training=True, momentum=1.0)
    assert oracle.error(y, expected_of({"x": x}, None, x)["y"]) < 2 * oracle.TOLERANCE[torch.float32]
    assert oracle.error(averages[1], x.double().var((0, 2, 3)).numpy()) < 1e-5
    same = [channel for channel in range(20) if not 3 <= channel < 7]
    assert torch.equal(y[:, same], gn.batch_norm(ordinary, None, None, training=True)[:, same])


@pytest.mark.parametrize("training", [True, False])
def test_a_channel_whose_variance_overflows_becomes_nan(layout: Layout, training: bool) -> None:
    x = torch.randn(2, 8, 6, 6)
    x[1, 4:] *= 1e25
    averages = torch.zeros(8), torch.ones(8)
    y = gn.batch_norm(layout(x), *averages, training=True)
    if not training:
        y = gn.batch_norm(layout(torch.randn(2, 8, 6, 6)), *averages)
    assert y[:, 4:].isnan().all()
    assert not y[:, :4].isnan().any()
    assert averages[1].isinf().tolist() == [False] * 4 + [True] * 4


@pytest.mark.usefixtures("backend")
def test_nan_goes_through_and_stays_in_its_channel_and_ghost_batch(layout: Layout) -> None:
    x = layout(torch.randn(4, 12, 5, 5))
    x[1, 2, 3, 3] = torch.nan
    y = gn.batch_norm(x, None, None, training=True, activation="relu", ghost_batch_size=2)
    assert y[:2, 2].isnan().all()
    assert y.isnan().sum() == 2 * 25


@pytest.mark.usefixtures("backend")
def test_return_skip_has_the_gradients_of_one_result_used_twice(layout: Layout) -> None:
    for dtype, activation, with_residual in itertools.product(KERNEL_DTYPES, (None, "relu"), (False, True)):
        given_ = arguments((3, 16, 7, 5), dtype)
        given_["x"] = layout(given_["x"])
        del given_["dy"]
        if not with_residual:
            del given_["residual"]
        leaves = [tensor.requires_grad_() for tensor in given_.values()]
        dys = [layout(torch.randn(3, 16, 7, 5).to(dtype)) for _ in range(2)]
        options = {"running_mean": None, "running_var": None, "training": True, "activation": activation}
        y, z = gn.batch_norm(return_skip=True, **given_, **options)
        single = gn.batch_norm(**given_, **options)
        assert torch.equal(y, single)
        assert torch.equal(z, single)
        ours = torch.autograd.grad((y, z), leaves, dys)
        theirs = torch.autograd.grad((single, single), leaves, dys)
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("shape", "options", "error", "message"),
    [
        ((4,), {}, RuntimeError, "Expected at least 2 dimensions"),
        ((1, 4, 1, 1), {}, ValueError, r"more than 1 value per channel when training, got input size .*\[1, 4, 1, 1\]"),
        ((3, 4), {"ghost_batch_size": 2}, ValueError, r"more than 1 value per channel.*\[1, 4\]"),
        ((2, 4, 3), {"ghost_batch_size": 0}, ValueError, "ghost_batch_size must be at least 1, got 0"),
        ((2, 4, 3), {"ghost_batch_size": 1.5}, TypeError, "ghost_batch_size must be an int, got 1.5"),
        ((2, 4, 3), {"eps": 0.0}, ValueError, "eps must be positive"),
        ((2, 4, 3), {"eps": None}, TypeError, "eps must be a float, got None"),
        ((2, 4, 3), {"momentum": "1"}, TypeError, "momentum must be a float, got '1'"),
        ((2, 4, 3), {"training": False}, RuntimeError, "running_mean must be defined in evaluation mode"),
        ((2, 4, 3), {"running_mean": torch.zeros(4)}, ValueError, "must either both be None or neither"),
        ((2, 4, 3), {"weight": torch.ones(5)}, RuntimeError, "weight should contain 4 elements not 5"),
        ((2, 4, 3), {"residual": torch.ones(2, 4, 1)}, ValueError, r"residual .*\[2, 4, 3\], got \[2, 4, 1\]"),
        ((2, 4, 3), {"activation": "tanh"}, ValueError, "one of 'relu', 'silu', 'gelu', got 'tanh'"),
    ],
)
def test_refuses_bad_arguments_as_torch_does(
    shape: tuple[int, ...], options: dict[str, object], error: type[Exception], message: str
) -> None:
    call = {"running_mean": None, "running_var": None, "training": True} | options
    with pytest.raises(error, match=message):
        gn.batch_norm(torch.ones(shape), **call)


def test_where_no_kernel_exists_torch_computes_and_the_backend_kernels_refuses() -> None:
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    averages = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(gn.batch_norm(x, *averages), F.batch_norm(x, *averages))
    half = torch.zeros(6, dtype=torch.bfloat16), torch.ones(6, dtype=torch.bfloat16)
    assert gn.batch_norm(x.bfloat16(), *half).dtype == torch.bfloat16
    with gn.backend("kernels"):
        with pytest.raises(RuntimeError, match=r"no kernel of batch_norm for torch.float64 on cpu: kernels take"):
            gn.batch_norm(x, *averages)
        with pytest.raises(RuntimeError, match=r"contiguous running averages of torch.float32"):
            gn.batch_norm(x.bfloat16(), *half)


def test_a_residual_of_another_dtype_is_added_in_that_of_x() -> None:
    x, residual = torch.randn(2, 8, 4, dtype=torch.bfloat16), torch.randn(2, 8, 4, requires_grad=True)
    y = gn.batch_norm(x, None, None, training=True, residual=residual)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert residual.grad.dtype == torch.float32


@pytest.mark.usefixtures("backend")
def test_an_empty_batch_is_what_torch_makes_of_it() -> None:
    assert gn.batch_norm(torch.empty(0, 4, 3), None, None, training=True).shape == (0, 4, 3)


def test_the_upstream_gradient_may_have_any_layout(layout: Layout) -> None:
    x = layout(torch.randn(3, 8, 6, 6)).requires_grad_()
    for dy in (channels_last(torch.randn(3, 8, 6, 6)), torch.randn(1, 8, 1, 1).expand(3, 8, 6, 6)):
        y = gn.batch_norm(x, None, None, training=True, activation="relu")
        (dx,) = torch.autograd.grad(y, x, dy)
        assert oracle.error(dx, expected_of({"x": x}, "relu", dy)["x"]) < 1e-5
