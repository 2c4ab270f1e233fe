"""The Triton kernels, on a GPU if there is one, otherwise in Triton's interpreter (see conftest.py)."""

from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import gn
from gn import backends
from gn.call import Call, Gradients
from gn.cuda import tiling
from gn.cuda.tiling import Shape, Tiling
from tests.unit.gn import oracle
from tests.unit.gn.test_functional import arguments, channels_last

pytest.importorskip("triton", reason="Triton is available for Linux only")

from gn.cuda.launches import Launch, backward_launches, forward_launches  # after Triton is known to exist

# One shape of every kind: padded groups and channels, groups that share a program, no positions.
SHAPES = {
    "image": ((2, 12, 5, 3), 4),
    "layer norm": ((2, 5, 4), 1),
    "instance norm": ((2, 5, 9), 5),
    "vector": ((5, 12), 3),
}


LAYOUTS = pytest.mark.parametrize("layout", [torch.clone, channels_last], ids=["contiguous", "channels_last"])
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(name="kernels")
def _kernels() -> ModuleType:
    from gn.cuda import kernels

    return kernels


@pytest.fixture(params=["resident", "streamed", "shared"], name="tiles")
def _tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Groups that fit into one tile, groups of several tiles, and groups that several programs share."""
    if request.param != "resident":
        monkeypatch.setattr(tiling, "_RESIDENT", 0)
        monkeypatch.setattr(tiling, "_TILE", 128)
        monkeypatch.setattr(tiling, "_BLOCKS", 1)
    if request.param == "shared":
        monkeypatch.setattr(tiling, "_STREAMED", 0)
    tiling._tiling.cache_clear()
    yield str(request.param)
    tiling._tiling.cache_clear()


@LAYOUTS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("tiles", "activation", "with_residual"),
    [
        ("resident", "relu", True),
        ("resident", "silu", False),
        ("resident", "gelu", True),
        ("resident", None, False),
        ("streamed", "relu", True),
        ("streamed", None, False),
        ("shared", "relu", False),
        ("shared", "gelu", True),
    ],
    indirect=["tiles"],
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


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # NumPy, in the interpreter
@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("scale", [1e20, 1e30])
def test_a_group_whose_variance_overflows_becomes_nan(kernels: ModuleType, scale: float) -> None:
    x = torch.randn(2, 4, 30, device=DEVICE)
    x[0, :2] *= scale
    assert_that_only_the_first_group_is_nan(kernels, x)


@LAYOUTS
@pytest.mark.parametrize("activation", [None, "silu"])
def test_a_skip_has_the_gradients_of_one_result_used_twice(
    kernels: ModuleType,
    tiles: str,
    monkeypatch: pytest.MonkeyPatch,
    layout: Callable[[Tensor], Tensor],
    activation: str | None,
) -> None:
    dtype = torch.float16  # not bfloat16, to which Triton's interpreter truncates
    monkeypatch.setattr(backends, "select", lambda x: kernels)
    given = {
        name: (layout(tensor) if tensor.dim() > 1 else tensor).to(DEVICE).requires_grad_()
        for name, tensor in arguments((2, 6, 3, 3), dtype).items()
    }
    dys = [given.pop("dy").detach(), torch.randn(2, 6, 3, 3, device=DEVICE).to(dtype)]
    with gn.backend("kernels"):
        outputs = gn.group_norm(num_groups=3, activation=activation, return_skip=True, **given)
        ours = torch.autograd.grad(outputs, list(given.values()), dys)
        single = gn.group_norm(num_groups=3, activation=activation, **given)
        theirs = torch.autograd.grad((single, single), list(given.values()), dys)
    for one, other in zip((*outputs, *ours), (single, single, *theirs), strict=True):
        assert torch.equal(one, other)


def test_backward_reads_both_gradients_of_a_skip(kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    skips = []

    def backward(*arguments: Any) -> Gradients:
        skips.append(arguments[4])
        gradients: Gradients = kernels.backward(*arguments)
        return gradients

    monkeypatch.setattr(backends, "select", lambda x: SimpleNamespace(forward=kernels.forward, backward=backward))
    x = torch.randn(2, 4, 3, device=DEVICE, requires_grad=True)
    with gn.backend("kernels"):
        y, z = gn.group_norm(x, 2, activation="relu", return_skip=True)
        torch.autograd.grad((y, z), x, (torch.ones_like(y), torch.ones_like(z)))
        y, z = gn.group_norm(x, 2, activation="relu", return_skip=True)
        torch.autograd.grad(z, x, torch.ones_like(z))
    assert [skip is None for skip in skips] == [False, True]


@pytest.mark.parametrize("used", [0, 1])
def test_a_change_of_one_output_of_a_skip_in_place_is_refused(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, used: int
) -> None:
    monkeypatch.setattr(backends, "select", lambda x: kernels)
    x = torch.randn(2, 4, 3, device=DEVICE, requires_grad=True)
    with gn.backend("kernels"):
        outputs = gn.group_norm(x, 2, activation="relu", return_skip=True)
        with pytest.raises(RuntimeError, match="modified inplace"):
            outputs[used].mul_(2)


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_gradients_of_parameters_are_sums_over_any_number_of_samples(kernels: ModuleType, samples: int) -> None:
    x, dy = torch.randn(2, samples, 6, 1, device=DEVICE)
    call = Call(x, 3)
    _, dweight, dbias, _ = kernels.backward(call, dy, kernels.forward(call)[1], True)
    expected = oracle.group_norm(x, 3, dy=dy)
    assert oracle.error(dweight, expected["weight"]) < 1e-5
    assert oracle.error(dbias, expected["bias"]) < 1e-5


def test_a_group_with_too_many_channels_is_computed_by_the_reference(kernels: ModuleType) -> None:
    x, dy = torch.randn(2, 1, 1 << 16, 1, device=DEVICE)
    call = Call(x, 1)
    assert Shape.of(call).tiling() is None
    y, statistics = kernels.forward(call)
    dx, *_ = kernels.backward(call, dy, statistics, True, dy)
    expected = oracle.group_norm(x, 1, dy=2 * dy)
    assert oracle.error(y, expected["y"]) < 1e-5
    assert oracle.error(dx, expected["x"]) < 1e-5


def test_tiles_hold_whole_groups_and_whole_sectors() -> None:
    image = Shape(128, 64, 32, 1024, channels_innermost=True, itemsize=2)
    assert image.tiling() == Tiling(groups=8, group_channels=2, positions=1024, warps=8)
    layer_norm = Shape(128, 64, 1, 1024, channels_innermost=True, itemsize=4)
    assert layer_norm.tiling() == Tiling(groups=1, group_channels=64, positions=64, warps=8, blocks=16)
    large = Shape(1, 64, 1, 1 << 25, channels_innermost=False, itemsize=4)
    tiles = large.tiling()
    assert tiles is not None
    assert tiles.chunks * tiles.blocks * tiles.positions == 1 << 25
    assert large.constants(tiles)["WIDE"]
    padded = Shape(1, 9, 3, 9, channels_innermost=True, itemsize=4)
    tiles = padded.tiling()
    assert tiles is not None
    assert padded.constants(tiles)["PADDED"]


def test_another_batch_size_compiles_nothing() -> None:
    for channels, groups, positions in ((16, 8, 1024), (512, 32, 16), (64, 1, 1024), (64, 1, 1 << 16), (10, 2, 1)):
        kernels = {
            (launch.kernel.fn.__name__, *launch.constants.items())
            for samples in (3, 8, 128, 70_000)
            for launch in all_launches(torch.empty(samples, channels, positions, device="meta"), groups)
        }
        assert len(kernels) == len({name for name, *_ in kernels})


def test_every_grid_has_one_axis_and_covers_every_sample() -> None:
    forward, backward, finish = all_launches(torch.empty(70_000, 512, 16, device="meta"), 32)
    assert forward.programs == 4 * 70_000
    assert backward.programs == 4 * finish.arguments[-1]
    assert finish.arguments[-1] * backward.arguments[-1] >= 70_000


def all_launches(x: Tensor, num_groups: int) -> list[Launch]:
    """The launches of a training step of a layer on an H100."""
    call = Call(x, num_groups)
    shape = Shape.of(call)
    tiles = shape.tiling()
    assert tiles is not None
    (y, statistics), launches = forward_launches(call, shape, tiles)
    return launches + backward_launches(call, shape, tiles, y, None, statistics, True, 132)[1]


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
