"""Tensors that the kernels cannot read directly: without memory of their own, applied lazily, wrapped, or sparse."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils._python_dispatch import TorchDispatchMode

import gn
from gn import dispatch
from tests.unit.gn.test_functional import arguments

PLACES = ["x", "weight", "bias", "residual", "dy"]


class Named(Tensor):
    """A subclass that overrides nothing."""


def imaginary(t: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(t), -t).conj().imag


# What each makes of a tensor, and the plain tensor of the same values.
KINDS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "zero": (lambda t: torch._efficientzerotensor(t.shape), torch.zeros_like),
    "negated": (torch._neg_view, torch.neg),
    "imaginary part of a conjugate": (imaginary, torch.clone),
    "functional": (torch._to_functional_tensor, torch.clone),
    "subclass": (lambda t: t.as_subclass(Named), torch.clone),
    "wrapper": (lambda t: TwoTensor(t, t.clone()), torch.clone),
    "copy on write": (torch._lazy_clone, torch.clone),
    "expanded": (lambda t: t[:1].expand(t.shape), lambda t: t[:1].repeat(len(t), *[1] * (t.dim() - 1))),
}


def unwrapped(t: Tensor | None) -> Tensor | None:
    if t is None:
        return None
    if isinstance(t, TwoTensor):
        t = t.a
    if torch._is_functional_tensor(t):
        torch._sync(t)  # type: ignore[attr-defined]
        t = torch._from_functional_tensor(t)
    return t.detach().clone()


def results(given: dict[str, Tensor], activation: str | None) -> list[Tensor | None]:
    """Return the output and the gradients."""
    given = dict(given)
    dy = given.pop("dy")
    leaves = [tensor.requires_grad_() for tensor in given.values()]
    y = gn.group_norm(num_groups=2, activation=activation, **given)
    return [unwrapped(tensor) for tensor in (y, *torch.autograd.grad(y, leaves, dy))]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_counts_as_its_values_wherever_it_stands(kind: str, place: str) -> None:
    unusual, plain = KINDS[kind]
    for activation in ("silu", None):
        found, expected = (
            results(given | {place: make(given[place])}, activation)
            for given, make in ((arguments((2, 4, 3), torch.float32), kind_) for kind_ in (unusual, plain))
        )
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("copy on write", "expanded")])
def test_only_ordinary_memory_is_plain(kind: str) -> None:
    assert dispatch.is_plain(torch.ones(2), None, torch.nn.Parameter(torch.ones(2)))
    with torch.inference_mode():
        assert dispatch.is_plain(torch.ones(2))
    assert not dispatch.is_plain(torch.ones(2), KINDS[kind][0](torch.ones(2)))


@pytest.mark.usefixtures("backend")
def test_a_gradient_that_autograd_leaves_at_zero_is_read() -> None:
    x = torch.randn(2, 4, 3, dtype=torch.complex64, requires_grad=True)
    y = gn.group_norm(x.real, 2)
    # The imaginary part of a real number: torch makes its gradient a zero tensor.
    torch.complex(y, y).imag.sum().backward()
    assert torch.isfinite(torch.view_as_real(x.grad)).all()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", ["zero", "negated", "expanded"])
def test_what_was_saved_may_come_back_as_another_kind(kind: str) -> None:
    unusual, plain = KINDS[kind]
    gradients = []
    for make in (unusual, plain):
        given = arguments((2, 4, 3), torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, make):
            gradients.append(results(given, "silu"))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("backend")
def test_both_gradients_of_an_output_used_twice_may_be_zero() -> None:
    for kinds in (("zero", "plain"), ("plain", "zero"), ("zero", "zero")):
        x = torch.randn(2, 4, 3, requires_grad=True)
        outputs = gn.group_norm(x, 2, activation="relu", return_skip=True)
        upstream = [torch.ones_like(y) if kind == "plain" else torch._efficientzerotensor(y.shape)
                    for y, kind in zip(outputs, kinds, strict=True)]  # fmt: skip
        (found,) = torch.autograd.grad(outputs, x, upstream)
        y = gn.group_norm(x, 2, activation="relu")
        (expected,) = torch.autograd.grad(y, x, sum(kind == "plain" for kind in kinds) * torch.ones_like(y))
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("backend")
def test_sparse_gradients_and_residuals_are_read_and_other_sparse_tensors_refused() -> None:
    given = arguments((2, 4, 3), torch.float32)
    expected = results(given, "silu")
    for place in ("residual", "dy"):
        found = results(given | {place: given[place].to_sparse()}, "silu")
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours.to_dense(), theirs)
    for place in ("x", "weight", "bias"):
        message = f"{place} must be a strided tensor, got one of layout torch.sparse_coo"
        with pytest.raises(NotImplementedError, match=message):
            results(given | {place: given[place].to_sparse()}, "silu")
    with pytest.raises(NotImplementedError, match=r"x must be a strided tensor, got one of layout torch\._mkldnn"):
        gn.group_norm(torch.ones(2, 4, 3, 3).to_mkldnn(), 2)


@pytest.mark.usefixtures("backend")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_tangent_of_the_upstream_gradient_is_carried_on() -> None:
    x, dy, tangent = torch.randn(3, 2, 4, 5)
    x.requires_grad_()
    y = gn.group_norm(x, 2, activation="relu")
    with forward_ad.dual_level():
        (dx,) = torch.autograd.grad(y, x, forward_ad.make_dual(dy, tangent), retain_graph=True)
        found = forward_ad.unpack_dual(dx).tangent
    (expected,) = torch.autograd.grad(y, x, tangent)  # the gradient is linear in that of the output
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("grad", [torch.enable_grad, torch.inference_mode])
def test_a_mode_sees_the_operator_whether_or_not_the_extension_is_built(grad: Callable[[], Any]) -> None:
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(function))
            return function(*args, **kwargs or {})

    for backend in ("auto", "kernels"):
        names: list[str] = []
        with grad(), gn.backend(backend), Names():
            gn.group_norm(torch.ones(2, 4, 3), 2)
        assert names[-1] == "gn.group_norm.default"
