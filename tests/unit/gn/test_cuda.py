"""The Triton kernels, on a GPU if there is one, otherwise in Triton's interpreter (see conftest.py)."""

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

import gn
from gn.call import Call
from tests.unit.gn import oracle
from tests.unit.gn.test_functional import arguments, channels_last

pytest.importorskip("triton", reason="Triton is available for Linux only")

# One shape of every kind: padded groups and channels, groups that share a program, no positions.
SHAPES = {
    "image": ((2, 12, 5, 3), 4),
    "layer norm": ((2, 5, 4), 1),
    "instance norm": ((2, 5, 9), 5),
    "vector": ((5, 12), 3),
}


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(name="kernels")
def _kernels() -> ModuleType:
    from gn.cuda import kernels

    return kernels


@pytest.fixture(params=["fused", "split"], name="tiles")
def _tiles(request: pytest.FixtureRequest, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> str:
    """Groups that fit into one program, and groups that do not."""
    if request.param == "split":
        monkeypatch.setattr(kernels, "_LARGEST_FUSED", {"forward": 0, "backward": 0})
        monkeypatch.setattr(kernels, "_SPLIT_TILE", 32)
    return str(request.param)


@pytest.mark.parametrize("layout", [torch.clone, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("activation", "with_residual"), [("relu", True), ("silu", False), ("gelu", True), (None, False)]
)
def test_values_and_gradients_are_those_of_float64(
    kernels: ModuleType,
    tiles: str,
    shape: str,
    layout: Callable[[Tensor], Tensor],
    activation: str | None,
    with_residual: bool,
) -> None:
    size, num_groups = SHAPES[shape]
    given = {name: tensor.to(DEVICE) for name, tensor in arguments(size, torch.float32).items()}
    dy, residual = given.pop("dy"), given.pop("residual") if with_residual else None
    x, weight, bias = layout(given["x"]), given["weight"], given["bias"]
    call = Call(x, num_groups, weight, bias, 1e-5, residual, activation)
    y, statistics = kernels.forward(call)
    # Unlike autograd, keep the residual without an activation too, so that its gradient is computed.
    call = call._replace(residual=y if activation == "relu" and with_residual else residual)
    gradients = kernels.backward(call, dy, statistics, True)

    expected = oracle.group_norm(x, num_groups, weight, bias, 1e-5, residual, activation, dy)
    assert y.stride() == gradients[0].stride() == x.stride()
    assert oracle.error(y, expected["y"]) < oracle.TOLERANCE[torch.float32]
    for name, gradient in zip(("x", "weight", "bias", "residual"), gradients, strict=True):
        if name == "residual" and not with_residual:
            assert gradient.numel() == 0
        else:
            assert oracle.error(gradient, expected[name]) < 4 * oracle.TOLERANCE[torch.float32], name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("tiles")
def test_half_precision_is_rounded_once(kernels: ModuleType, dtype: torch.dtype) -> None:
    given = {name: tensor.to(DEVICE) for name, tensor in arguments((2, 6, 5), dtype).items()}
    x, weight, bias, dy = given["x"], given["weight"], given["bias"], given["dy"]
    call = Call(x, 3, weight, bias, activation="relu")
    y, statistics = kernels.forward(call)
    dx, *_ = kernels.backward(call, dy, statistics, True)
    expected = oracle.group_norm(x, 3, weight, bias, activation="relu", dy=dy)
    assert y.dtype == dx.dtype == dtype
    assert statistics.dtype == torch.float32
    assert oracle.error(y, expected["y"]) < oracle.TOLERANCE[dtype]
    assert oracle.error(dx, expected["x"]) < 4 * oracle.TOLERANCE[dtype]


@pytest.mark.usefixtures("tiles")
def test_a_mean_far_from_zero_costs_no_digits(kernels: ModuleType) -> None:
    x = (torch.randn(2, 4, 30, generator=torch.Generator().manual_seed(0)) + 1e4).to(DEVICE)
    y, _ = kernels.forward(Call(x, 2))
    assert oracle.error(y, oracle.group_norm(x, 2)["y"]) < 1e-5


@pytest.mark.usefixtures("tiles")
def test_what_is_not_asked_for_is_not_computed(kernels: ModuleType) -> None:
    x, dy = torch.randn(2, 2, 4, 6, device=DEVICE)
    call = Call(x, 2)
    statistics = kernels.forward(call)[1]
    dx, dweight, dbias, dresidual = kernels.backward(call, dy, statistics, False)
    assert dx.numel() == dresidual.numel() == 0
    expected = oracle.group_norm(x, 2, dy=dy)
    assert oracle.error(dweight, expected["weight"]) < 1e-5
    assert oracle.error(dbias, expected["bias"]) < 1e-5


def assert_that_only_the_first_group_is_nan(kernels: ModuleType, x: torch.Tensor) -> None:
    """Check the output and the gradient of an `x` of two groups of two channels."""
    call = Call(x, 2, activation="relu")
    y, statistics = kernels.forward(call)
    dx, *_ = kernels.backward(call, torch.ones_like(x), statistics, True)
    for result in (y, dx):
        assert result[0, :2].isnan().all()
        assert not result[0, 2:].isnan().any()
        assert not result[1].isnan().any()


def test_nan_goes_through_relu(kernels: ModuleType) -> None:
    x = torch.randn(2, 4, 6, device=DEVICE)
    x[0, 0, 0] = torch.nan
    assert_that_only_the_first_group_is_nan(kernels, x)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # NumPy, in the interpreter
@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("scale", [1e20, 1e30])
def test_a_group_whose_variance_overflows_becomes_nan(kernels: ModuleType, scale: float) -> None:
    x = torch.randn(2, 4, 30, device=DEVICE)
    x[0, :2] *= scale
    assert_that_only_the_first_group_is_nan(kernels, x)


def test_tiles_hold_whole_groups_and_whole_sectors(kernels: ModuleType) -> None:
    image = kernels._Shape(128, 64, 32, 1024, channels_innermost=True)
    groups, channels, positions = image.fused_tile(1 << 15)
    assert groups * channels >= 32
    assert positions >= 1024
    assert kernels._Shape(1, 64, 1, 1 << 20, channels_innermost=True).fused_tile(1 << 15) is None
    assert kernels._Shape(1, 64, 1, 1 << 25, channels_innermost=False).split_launch()[1]["WIDE"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [((8, 64, 32, 32), 32), ((8, 512, 4, 4), 32), ((2, 24, 7, 7), 3), ((2, 6, 300, 300), 2)]
)
def test_on_a_gpu_results_are_those_of_float64_and_repeat(
    shape: tuple[tuple[int, ...], int], dtype: torch.dtype
) -> None:
    size, num_groups = shape
    given = {name: tensor.cuda() for name, tensor in arguments(size, dtype).items()}
    dy = given.pop("dy")
    runs = []
    for _ in range(2):
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
        y = gn.group_norm(num_groups=num_groups, activation="relu", **leaves)
        y.backward(dy)
        runs.append([y, *(leaf.grad for leaf in leaves.values())])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    expected = oracle.group_norm(num_groups=num_groups, activation="relu", dy=dy, **given)
    for name, result in zip(("y", *given), runs[0], strict=True):
        assert oracle.error(result, expected[name]) < 4 * oracle.TOLERANCE[dtype], name
