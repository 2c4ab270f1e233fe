"""gn.group_norm supports torch's function transformations: higher derivatives, compilation, vmap, autocast."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensorMode

import gn
from tests.unit.gn import oracle
from tests.unit.gn.test_functional import arguments, channels_last

# torch scripts its rules of forward-mode differentiation on their first use.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


def function(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *, activation: str | None = "silu") -> Tensor:
    return gn.group_norm(x, 2, weight, bias, residual=residual, activation=activation)


def inputs(
    dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (3, 4, 5, 3), grad: bool = True
) -> list[Tensor]:
    given = arguments(shape, dtype)
    del given["dy"]
    return [tensor.requires_grad_(grad) for tensor in given.values()]


@pytest.mark.parametrize("activation", [None, "silu", "gelu"])
@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 4), (2, 4, 2, 2)])
def test_first_and_second_derivatives_are_those_of_finite_differences(
    shape: tuple[int, ...], activation: str | None
) -> None:
    def activated(*leaves: Tensor) -> Tensor:
        return function(*leaves, activation=activation)

    leaves = inputs(torch.float64, shape)
    assert torch.autograd.gradcheck(activated, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(activated, leaves)


def test_second_derivatives_of_relu_are_those_of_finite_differences() -> None:
    def without_a_kink(*leaves: Tensor) -> Tensor:
        return function(*leaves, activation="relu")

    x, weight, bias, residual = inputs(torch.float64, (2, 4, 3))
    # Far from zero on either side, so that no difference straddles the kink.
    with torch.no_grad():
        residual.copy_(residual.sign() * 20)
    assert torch.autograd.gradgradcheck(without_a_kink, [x, weight, bias, residual])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("activation", oracle.ACTIVATIONS)
def test_a_gradient_penalty_is_that_of_float64(activation: str | None) -> None:
    def penalty(leaves: list[Tensor]) -> list[Tensor]:
        y = function(*leaves, activation=activation)
        gradients = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        total = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
        return list(torch.autograd.grad(total, leaves))

    single, double = inputs(), inputs(torch.float64)
    with torch.no_grad():
        for s, d in zip(single, double, strict=True):
            d.copy_(s)
    found = penalty(single)
    with gn.backend("reference"):  # no kernel takes float64
        expected = penalty(double)
    for s, d in zip(found, expected, strict=True):
        assert oracle.error(s, oracle.float64(d)) < 1e-4


@pytest.mark.parametrize("layout", [torch.clone, channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("grad", [False, True])
def test_the_operators_pass_the_checks_of_torch(
    layout: Callable[[Tensor], Tensor], dtype: torch.dtype, grad: bool
) -> None:
    x, weight, bias, residual = (tensor.detach() for tensor in inputs(dtype))
    x, residual = layout(x), layout(residual)
    sliced = torch.randn(3, 4, 5, 6, dtype=dtype)[..., ::2]
    empty = torch.empty(0, 4, 5, dtype=dtype)
    for case in (
        (x, 2, weight, bias, 1e-5, residual, "relu"),
        (x, 2, None, None, 1e-5, None, None),
        (sliced, 4, weight, None, 1e-5, None, "gelu"),
        (empty, 1, weight, bias, 1e-5, None, "silu"),
    ):
        arguments_ = tuple(t.detach().requires_grad_(grad) if isinstance(t, Tensor) else t for t in case)
        torch.library.opcheck(torch.ops.gn.group_norm.default, arguments_)
    statistics = torch.ops.gn.group_norm.default(x, 2, weight, bias, 1e-5, residual, "silu")[1]
    for needs_dx in (False, True):
        torch.library.opcheck(
            torch.ops.gn.group_norm_backward.default,
            (x, 2, weight, bias, 1e-5, residual, "silu", residual, statistics, needs_dx),
        )


@pytest.fixture(name="compiled")
def _compiled() -> Iterator[Callable[..., Callable[..., Tensor]]]:
    torch._dynamo.reset()
    yield lambda callable_, **options: torch.compile(callable_, fullgraph=True, **options)
    torch._dynamo.reset()


@pytest.mark.parametrize("layout", [torch.clone, channels_last], ids=["contiguous", "channels_last"])
def test_compiles_into_one_graph_with_the_same_gradients(
    compiled: Callable[..., Callable[..., Tensor]], layout: Callable[[Tensor], Tensor]
) -> None:
    def network(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return function(x * 2, weight, bias, residual, activation="relu").sin()

    run = compiled(network, backend="aot_eager")
    results = []
    for call in (network, run):
        x, weight, bias, residual = inputs()
        x, residual = (layout(tensor.detach()).requires_grad_() for tensor in (x, residual))
        y = call(x, weight, bias, residual)
        y.sum().backward()
        results.append([y, x.grad, weight.grad, bias.grad, residual.grad])
    for eager, graph in zip(*results, strict=True):
        torch.testing.assert_close(graph, eager)
    assert results[0][0].stride() == results[1][0].stride()


def test_compiles_once_for_every_batch_size(compiled: Callable[..., Callable[..., Tensor]]) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    run = compiled(lambda x: gn.group_norm(x, 2, activation="relu"), backend=backend, dynamic=True)
    for samples in (2, 3, 7):
        x = torch.randn(samples, 4, 5)
        assert torch.equal(run(x), gn.group_norm(x, 2, activation="relu"))
    assert len(graphs) == 1


def test_the_compiled_graph_calls_the_kernels_forward_and_backward(
    compiled: Callable[..., Callable[..., Tensor]],
) -> None:
    graphs = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph.code)
        return make_boxed_func(graph.forward)

    run = compiled(function, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    run(*inputs()).sum().backward()
    assert "ops.gn.group_norm.default" in graphs[0]
    assert "ops.gn.group_norm_backward.default" in graphs[1]


@pytest.mark.usefixtures("backend")
def test_half_stays_half_under_autocast_and_parameters_float32() -> None:
    layer = gn.GroupNorm(2, 4, activation="relu")
    x = torch.randn(2, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32


def test_vmap_maps_over_every_input() -> None:
    generator = torch.Generator().manual_seed(0)
    x, residual = (torch.randn(3, 2, 4, 5, generator=generator) for _ in range(2))
    weight = torch.randn(3, 4, generator=generator)
    for dims in ((0, 0, None, 0), (0, None, None, None), (None, 0, None, None), (None, None, None, 0)):
        given = [
            tensor if dim == 0 else tensor[0]
            for tensor, dim in zip((x, weight, torch.ones(3, 4), residual), dims, strict=True)
        ]
        expected = [
            function(*(tensor[i] if dim == 0 else tensor for tensor, dim in zip(given, dims, strict=True)))
            for i in range(3)
        ]
        torch.testing.assert_close(torch.vmap(function, dims)(*given), torch.stack(expected))


@pytest.mark.usefixtures("backend")
def test_gradients_per_sample_are_those_of_a_loop() -> None:
    x, weight, bias, _ = (tensor.detach() for tensor in inputs())

    def loss(weight: Tensor, bias: Tensor, sample: Tensor) -> Tensor:
        return gn.group_norm(sample[None], 2, weight, bias, activation="relu").square().sum()

    gradient = torch.func.grad(loss, (0, 1))
    mapped = torch.vmap(gradient, (None, None, 0))(weight, bias, x)
    looped = [gradient(weight, bias, sample) for sample in x]
    for at, result in enumerate(mapped):
        torch.testing.assert_close(result, torch.stack([one[at] for one in looped]))


@pytest.mark.usefixtures("backend")
def test_batched_upstream_gradients_are_those_of_a_loop() -> None:
    leaves = inputs()
    y = function(*leaves)
    upstream = torch.randn(4, *y.shape)
    batched = torch.autograd.grad(y, leaves, upstream, is_grads_batched=True, retain_graph=True)
    for i, dy in enumerate(upstream):
        for result, expected in zip(batched, torch.autograd.grad(y, leaves, dy, retain_graph=True), strict=True):
            torch.testing.assert_close(result[i], expected)


def test_jacobians_agree_forward_and_backward() -> None:
    x = torch.randn(2, 4, 2, dtype=torch.float64)

    def normalized(x: Tensor) -> Tensor:
        return gn.group_norm(x, 2, activation="gelu")

    torch.testing.assert_close(torch.func.jacfwd(normalized)(x), torch.func.jacrev(normalized)(x))


def test_shapes_are_known_without_data() -> None:
    with FakeTensorMode():
        y = gn.group_norm(channels_last(torch.empty(2, 4, 3, 3)), 2)
    assert y.shape == (2, 4, 3, 3)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert gn.GroupNorm(2, 4, device="meta")(torch.empty(2, 4, 3, device="meta")).shape == (2, 4, 3)


@pytest.mark.usefixtures("backend")
def test_a_checkpointed_layer_has_the_same_gradients() -> None:
    results = []
    for call in (function, lambda *leaves: torch.utils.checkpoint.checkpoint(function, *leaves, use_reentrant=False)):
        leaves = inputs()
        call(*leaves).sum().backward()
        results.append([leaf.grad for leaf in leaves])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_subclass_of_tensor_may_take_the_function_over() -> None:
    class Recorded(Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return "taken over" if function is gn.group_norm else NotImplemented

    assert gn.group_norm(torch.ones(2, 4, 3).as_subclass(Recorded), 2) == "taken over"


def test_compiles_under_vmap(compiled: Callable[..., Callable[..., Tensor]]) -> None:
    mapped = torch.vmap(lambda x: gn.group_norm(x, 2, activation="relu"))
    x = torch.randn(3, 2, 4, 5)
    torch.testing.assert_close(compiled(mapped, backend="aot_eager")(x), mapped(x))
