"""gn.batch_norm and gn.BatchNorm2d within torch: higher derivatives, compilation, tracing, unusual tensors, drop-in."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gn
from gn import backends
from tests.unit.gn import oracle
from tests.unit.gn.test_functional import arguments, channels_last
from tests.unit.gn.test_unusual_tensors import KINDS, unwrapped

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*`?torch.jit.*:DeprecationWarning", "ignore:There is a performance drop:UserWarning"
)


def call(leaves: list[Tensor], *, training: bool = True, activation: Any = "silu", size: int | None = 2) -> Tensor:
    x, weight, bias, residual = leaves
    channels = x.shape[1]
    averages = torch.linspace(-1, 1, channels, dtype=weight.dtype), torch.linspace(1, 2, channels, dtype=weight.dtype)
    return gn.batch_norm(
        x, *averages, weight, bias, training, residual=residual, activation=activation, ghost_batch_size=size
    )


def inputs(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (3, 4, 5, 3)) -> list[Tensor]:
    given = arguments(shape, dtype)
    del given["dy"]
    return [tensor.requires_grad_() for tensor in given.values()]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", oracle.ACTIVATIONS)
def test_a_gradient_penalty_is_that_of_float64(activation: str | None, training: bool) -> None:
    def penalty(leaves: list[Tensor]) -> list[Tensor]:
        y = call(leaves, training=training, activation=activation)
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


@pytest.mark.parametrize("training", [True, False])
def test_first_and_second_derivatives_are_those_of_finite_differences(training: bool) -> None:
    def function(*leaves: Tensor) -> Tensor:
        return call(list(leaves), training=training)

    leaves = inputs(torch.float64, (3, 2, 3))
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.usefixtures("backend")
def test_batched_upstream_gradients_are_those_of_a_loop() -> None:
    leaves = inputs()
    y = call(leaves)
    upstream = torch.randn(4, *y.shape)
    batched = torch.autograd.grad(y, leaves, upstream, is_grads_batched=True, retain_graph=True)
    for i, dy in enumerate(upstream):
        for result, expected in zip(batched, torch.autograd.grad(y, leaves, dy, retain_graph=True), strict=True):
            torch.testing.assert_close(result[i], expected)


@pytest.mark.usefixtures("backend")
def test_transformations_of_torch_differentiate_it() -> None:
    x, weight, bias, residual = (tensor.detach() for tensor in inputs())

    def loss(x: Tensor) -> Tensor:
        return gn.batch_norm(x, None, None, weight, bias, True, residual=residual, activation="silu").square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    batch = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.vmap(loss)(batch), torch.stack([loss(x), loss(2 * x)]))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("place", ["x", "weight", "bias", "residual", "dy"])
@pytest.mark.parametrize("kind", ["zero", "negated", "subclass", "copy on write", "expanded"])
def test_a_tensor_counts_as_its_values_wherever_it_stands(kind: str, place: str) -> None:
    results = []
    for make in KINDS[kind]:
        given = arguments((4, 4, 3), torch.float32)
        given[place] = make(given[place])
        dy = given.pop("dy")
        leaves = [tensor.requires_grad_() for tensor in given.values()]
        y = call(leaves)
        results.append([unwrapped(tensor) for tensor in (y, *torch.autograd.grad(y, leaves, dy))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["auto", "kernels"])  # torch's batch normalization takes no sparse gradient
def test_a_sparse_residual_or_gradient_is_read(name: backends.Name) -> None:
    given = arguments((4, 4, 3), torch.float32)
    dy = given.pop("dy")
    leaves = [tensor.requires_grad_() for tensor in given.values()]
    with gn.backend(name):
        expected = torch.autograd.grad(call(leaves), leaves, dy)
        found = torch.autograd.grad(call([*leaves[:3], leaves[3].to_sparse()]), leaves, dy.to_sparse())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.to_dense(), theirs)


@pytest.fixture(name="compiled")
def _compiled() -> Iterator[Callable[..., Callable[..., Any]]]:
    torch._dynamo.reset()
    yield lambda callable_, **options: torch.compile(callable_, fullgraph=True, **options)
    torch._dynamo.reset()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = gn.BatchNorm2d(4, activation="relu")
        self.second = gn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y, skip = self.first(x, return_skip=True)
        result: Tensor = self.second(y, skip)
        return result


def test_compiles_into_one_graph_with_the_same_gradients_and_averages(compiled: Callable[..., Any]) -> None:
    results = []
    for compile_ in (False, True):
        block = Block()
        x = torch.linspace(-1, 1, 2 * 4 * 9).view(2, 4, 3, 3).sin().requires_grad_()
        (compiled(block, backend="aot_eager") if compile_ else block)(x).square().sum().backward()
        results.append([x.grad, *(p.grad for p in block.parameters()), *block.buffers()])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("backend")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # torch compares the number of values per channel with 1
@pytest.mark.parametrize("training", [True, False])
def test_a_trace_and_an_export_hold_on_other_inputs(training: bool) -> None:
    block = Block().train(training)
    twin = copy.deepcopy(block)
    trace = torch.jit.trace(copy.deepcopy(block), (torch.randn(2, 4, 3, 3),), check_trace=False)
    x = torch.randn(5, 4, 6, 7)
    torch.testing.assert_close(trace(x), twin(x))
    exported = torch.export.export(block.eval(), (torch.randn(2, 4, 3, 3),))
    torch.testing.assert_close(exported.module()(x[:2, :, :3, :3]), block(x[:2, :, :3, :3]))


def test_scripting_is_refused_with_a_way_out() -> None:
    with pytest.raises(NotImplementedError, match=r"cannot compile gn\.BatchNorm2d; use .* or torch\.jit\.trace"):
        torch.jit.script(Block())


@pytest.mark.usefixtures("backend")
def test_half_stays_half_under_autocast_and_parameters_float32() -> None:
    layer = gn.BatchNorm2d(4, activation="relu")
    x = torch.randn(2, 4, 5, 5, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == x.grad.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == layer.running_mean.dtype == torch.float32


def test_a_subclass_of_tensor_may_take_the_function_over() -> None:
    class Recorded(Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return kwargs if function is gn.batch_norm else NotImplemented

    told: Any = gn.batch_norm(torch.ones(2, 4, 3).as_subclass(Recorded), None, None, ghost_batch_size=1)
    assert told["ghost_batch_size"] == 1


def test_changes_in_place_are_noticed() -> None:
    x, weight = torch.randn(2, 4, 3), torch.ones(4, requires_grad=True)
    y = gn.batch_norm(x, None, None, weight, training=True)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with pytest.raises(RuntimeError, match="modified inplace"):
        gn.batch_norm(x, None, None, weight, training=True, return_skip=True)[0].mul_(2)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "options",
    [{}, {"eps": 0.1, "momentum": 0.4}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}],
    ids=str,
)
@pytest.mark.parametrize("layout", [torch.clone, channels_last], ids=["contiguous", "channels_last"])
def test_trains_and_evaluates_as_the_layer_of_torch(
    options: dict[str, Any], layout: Callable[[Tensor], Tensor]
) -> None:
    ours, theirs = gn.BatchNorm2d(6, **options), nn.BatchNorm2d(6, **options)
    for _ in range(3):
        x = layout(torch.randn(4, 6, 5, 3) * 2 + 1)
        torch.testing.assert_close(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other)
        assert one.dtype == other.dtype
    x = layout(torch.randn(4, 6, 5, 3))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert repr(ours) == repr(theirs)


def test_the_layer_adds_normalizes_in_ghost_batches_and_says_so() -> None:
    layer = gn.BatchNorm2d(6, bias=False, activation="relu", ghost_batch_size=2)
    x = torch.randn(4, 6, 3, 3)
    expected = torch.cat([F.batch_norm(chunk, None, None, training=True) for chunk in x.split(2)])
    torch.testing.assert_close(layer(x, -x), torch.relu(expected - x))
    assert layer.bias is None
    assert repr(layer).endswith("activation='relu', ghost_batch_size=2)")
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert torch.equal(twin(x), layer(x))


def test_a_layer_of_torch_may_change_its_class() -> None:
    layer: Any = nn.BatchNorm2d(6).eval()
    x = torch.randn(2, 6, 4, 4)
    expected = layer(x)
    layer.__class__ = gn.BatchNorm2d
    torch.testing.assert_close(layer(x), expected)
    assert repr(layer) == repr(nn.BatchNorm2d(6))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activation": "tanh"}, ValueError, "'relu', 'silu', 'gelu', got 'tanh'"),
        ({"ghost_batch_size": 0}, ValueError, "ghost_batch_size must be at least 1, got 0"),
        ({"ghost_batch_size": 2.5}, TypeError, "ghost_batch_size must be an int, got 2.5"),
    ],
)
def test_the_layer_refuses_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gn.BatchNorm2d(4, **options)
    with pytest.raises(ValueError, match="expected 4D input"):
        gn.BatchNorm2d(4)(torch.ones(2, 4, 3))
