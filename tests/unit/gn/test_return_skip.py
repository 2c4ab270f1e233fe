"""An output used in two places: `return_skip` reduces the cost of its gradient, and changes nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gn
from gn import backends
from tests.unit.gn.test_functional import arguments, channels_last

LAYOUTS = pytest.mark.parametrize("layout", [torch.clone, channels_last], ids=["contiguous", "channels_last"])
Layout = Callable[[Tensor], Tensor]


def leaves(shape: tuple[int, ...], dtype: torch.dtype, layout: Layout, *, residual: bool) -> dict[str, Tensor]:
    """Return the inputs of a call, which require gradients."""
    given = arguments(shape, dtype)
    del given["dy"]
    if not residual:
        del given["residual"]
    return {name: (layout(tensor) if tensor.dim() > 1 else tensor).requires_grad_() for name, tensor in given.items()}


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("activation", [None, "relu", "silu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@LAYOUTS
@pytest.mark.parametrize("shape", [(2, 12), (3, 8, 5), (2, 16, 7, 5), (2, 64, 4, 4)])
@pytest.mark.parametrize("residual", [False, True])
def test_gradients_are_those_of_one_result_used_twice(
    shape: tuple[int, ...], layout: Layout, dtype: torch.dtype, activation: str | None, residual: bool
) -> None:
    given = leaves(shape, dtype, layout, residual=residual)
    dys = [layout(torch.randn(shape).to(dtype)) for _ in range(2)]

    y, z = gn.group_norm(num_groups=4, activation=activation, return_skip=True, **given)
    ours = torch.autograd.grad((y, z), list(given.values()), dys)

    single = gn.group_norm(num_groups=4, activation=activation, **given)
    theirs = torch.autograd.grad((single, single), list(given.values()), dys)
    assert torch.equal(y, single)
    assert torch.equal(z, single)
    assert y.stride() == z.stride() == single.stride()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("used", [0, 1])
def test_one_of_the_two_may_go_unused(used: int) -> None:
    given = leaves((2, 8, 3, 3), torch.float32, torch.clone, residual=True)
    dy = torch.randn(2, 8, 3, 3)
    ours = torch.autograd.grad(
        gn.group_norm(num_groups=2, activation="relu", return_skip=True, **given)[used], list(given.values()), dy
    )
    theirs = torch.autograd.grad(gn.group_norm(num_groups=2, activation="relu", **given), list(given.values()), dy)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


@LAYOUTS
@pytest.mark.parametrize("first", [0, 1])
def test_the_two_gradients_may_differ_in_layout(layout: Layout, first: int) -> None:
    given = leaves((2, 8, 4, 6), torch.float32, layout, residual=True)
    dys = [torch.randn(1, 8, 1, 1).expand(2, 8, 4, 6), channels_last(torch.randn(2, 8, 4, 6))]
    dys = [dys[first], dys[1 - first]]
    y, z = gn.group_norm(num_groups=2, activation="relu", return_skip=True, **given)
    ours = torch.autograd.grad((y, z), list(given.values()), dys)
    theirs = torch.autograd.grad(
        gn.group_norm(num_groups=2, activation="relu", **given), list(given.values()), dys[0] + dys[1]
    )
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_a_gradient_is_that_of_the_result_it_is_asked_for() -> None:
    given = leaves((2, 8, 3, 3), torch.float32, torch.clone, residual=True)
    y, z = gn.group_norm(num_groups=2, activation="relu", return_skip=True, **given)
    seen = []
    y.register_hook(lambda gradient: seen.append(gradient.clone()))
    of_y, of_z = torch.autograd.grad(y.sum() + 2 * z.sum(), (y, z), retain_graph=True)
    assert torch.equal(of_y, torch.ones_like(y))
    assert torch.equal(of_z, torch.full_like(z, 2))
    assert torch.equal(seen[0], of_y)


@pytest.mark.parametrize("name", ["auto", "reference"])  # no kernel takes float64
@pytest.mark.parametrize("activation", [None, "silu"])
def test_second_derivatives_are_those_of_finite_differences(activation: str | None, name: backends.Name) -> None:
    def summed(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        y, z = gn.group_norm(x, 2, weight, bias, residual=residual, activation=activation, return_skip=True)
        total: Tensor = y * z + z
        return total

    given = leaves((2, 4, 3), torch.float64, torch.clone, residual=True)
    with gn.backend(name):
        assert torch.autograd.gradgradcheck(summed, tuple(given.values()))


def test_a_gradient_penalty_is_that_of_one_result_used_twice() -> None:
    def penalty(return_skip: bool) -> list[Tensor]:
        given = leaves((2, 4, 3), torch.float32, torch.clone, residual=True)
        if return_skip:
            y, z = gn.group_norm(num_groups=2, activation="silu", return_skip=True, **given)
        else:
            y = z = gn.group_norm(num_groups=2, activation="silu", **given)
        gradients = torch.autograd.grad((y * z).square().sum(), list(given.values()), create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in gradients), list(given.values())))

    for one, other in zip(penalty(True), penalty(False), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("learned", ["both", "weight", "residual", "neither"])
def test_any_input_may_be_without_a_gradient(learned: str) -> None:
    given = leaves((2, 8, 3, 3), torch.float32, torch.clone, residual=True)
    for name, tensor in given.items():
        tensor.requires_grad_(learned == "both" or learned == name)
    y, z = gn.group_norm(num_groups=2, activation="relu", return_skip=True, **given)
    assert y.requires_grad == z.requires_grad == (learned != "neither")
    if learned != "neither":
        (y + z).sum().backward()
        assert all((tensor.grad is not None) == tensor.requires_grad for tensor in given.values())


def test_a_change_of_one_in_place_is_refused() -> None:
    x = torch.randn(2, 4, 3, requires_grad=True)
    for n in range(2):
        with pytest.raises(RuntimeError, match="modified inplace"):
            gn.group_norm(x, 2, activation="relu", return_skip=True)[n].mul_(2)


def test_a_change_in_place_without_a_graph_is_noticed_where_the_result_is_needed() -> None:
    x, residual = torch.randn(2, 4, 3), torch.randn(2, 4, 3, requires_grad=True)
    y, z = gn.group_norm(x, 2, residual=residual, activation="relu", return_skip=True)
    y.detach().mul_(2)
    with pytest.raises(RuntimeError, match="modified inplace"):
        z.sum().backward()


@pytest.mark.usefixtures("backend")
def test_the_layer_returns_a_skip_too() -> None:
    layer = gn.GroupNorm(2, 4, activation="relu")
    x, residual = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    y, z = layer(x, residual, return_skip=True)
    assert torch.equal(y, layer(x, residual))
    assert torch.equal(z, y)
    with torch.inference_mode():
        assert torch.equal(layer(x, residual, return_skip=True)[1], y)


def test_compiles_into_one_graph_with_the_same_gradients() -> None:
    def network(x: Tensor) -> Tensor:
        y, z = gn.group_norm(x.sin(), 2, activation="silu", return_skip=True)
        return y.sin() + z.exp()

    torch._dynamo.reset()
    gradients = []
    for call in (network, torch.compile(network, fullgraph=True, backend="aot_eager")):
        x = torch.linspace(-1, 1, 24).view(2, 4, 3).requires_grad_()
        call(x).sum().backward()
        gradients.append(x.grad)
    torch._dynamo.reset()
    torch.testing.assert_close(*gradients)


def test_vmap_maps_over_both() -> None:
    x = torch.randn(3, 2, 4, 5)
    y, z = torch.vmap(lambda x: gn.group_norm(x, 2, return_skip=True))(x)
    for n in range(3):
        torch.testing.assert_close(y[n], gn.group_norm(x[n], 2))
    torch.testing.assert_close(y, z)


def test_a_subclass_of_tensor_is_told() -> None:
    class Recorded(Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return kwargs["return_skip"]

    found: Any = gn.group_norm(torch.ones(2, 4, 3).as_subclass(Recorded), 2, return_skip=True)
    assert found is True
