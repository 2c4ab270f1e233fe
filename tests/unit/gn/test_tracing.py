"""Traced, scripted and exported layers compute the same on other inputs, and after they are saved and loaded."""

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter import _flags

import gn

pytestmark = pytest.mark.filterwarnings("ignore:.*`?torch.jit.*:DeprecationWarning")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = gn.GroupNorm(2, 4, activation="relu")
        self.second = gn.GroupNorm(2, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y, skip = self.first(x, return_skip=True)
        result: Tensor = self.second(y, skip)
        return result


@pytest.fixture(name="block")
def _block() -> Block:
    block = Block()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block


def other_input() -> Tensor:
    return torch.randn(3, 4, 5, 7)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("grad", [False, True])
def test_a_trace_holds_on_other_inputs_and_after_loading(block: Block, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        trace = torch.jit.trace(block, (torch.randn(2, 4, 3, 3),))  # a TracerWarning would be an error
    file = io.BytesIO()
    torch.jit.save(trace, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert str(trace.inlined_graph).count("gn::group_norm(") == 2
    for x in (other_input(), other_input().to(memory_format=torch.channels_last)):
        for network in (trace, loaded):
            y = network(x)
            torch.testing.assert_close(y, block(x))
            assert y.stride() == x.stride()
    gradients = []
    for network in (block, loaded):
        network(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_trace_refuses_what_the_layer_refuses() -> None:
    trace = torch.jit.trace(gn.GroupNorm(2, 4), (torch.randn(2, 4, 3),))
    with pytest.raises(RuntimeError, match=r"Expected weight .* \[4\] and input of shape \[2, 6, 3\]"):
        trace(torch.randn(2, 6, 3))


def test_a_number_of_groups_from_a_shape_is_recorded_as_a_constant_with_a_warning() -> None:
    with pytest.warns(torch.jit._trace.TracerWarning, match="to a Python integer"):
        trace = torch.jit.trace(lambda x: gn.group_norm(x, x.shape[1] // 2), (torch.randn(2, 4, 3),))
    x = torch.randn(5, 4, 2)
    torch.testing.assert_close(trace(x), gn.group_norm(x, 2))


def test_tensorboard_draws_the_graph(block: Block, tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard", reason="tensorboard is not installed")
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        writer.add_graph(block, torch.randn(2, 4, 3, 3))
    assert b"gn::group_norm" in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_onnx_sees_the_operations_of_torch(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_flags, "_is_onnx_exporting", True)  # what torch.onnx.export sets
    exported = torch.export.export(block, (torch.randn(2, 4, 3),))
    traced = torch.jit.trace(block, (torch.randn(2, 4, 3),))
    monkeypatch.undo()
    assert "gn." not in str(exported.graph)
    assert "gn::" not in str(traced.inlined_graph)
    x = other_input().flatten(2)
    torch.testing.assert_close(traced(x), block(x))


@pytest.mark.parametrize("strict", [False, True])
def test_an_export_holds_for_any_batch_size(block: Block, strict: bool) -> None:
    samples = torch.export.Dim("samples", min=2)
    exported = torch.export.export(block, (torch.randn(2, 4, 3),), dynamic_shapes={"x": {0: samples}}, strict=strict)
    assert "gn.group_norm.default" in str(exported.graph)
    x = torch.randn(7, 4, 3)
    torch.testing.assert_close(exported.module()(x), block(x))


def test_a_symbolic_trace_holds_on_other_inputs(block: Block) -> None:
    class Functional(nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return gn.group_norm(x, 2, weight, activation="silu")

    x, weight = other_input(), torch.randn(4)
    torch.testing.assert_close(torch.fx.symbolic_trace(Functional())(x, weight), Functional()(x, weight))


def test_scripting_is_refused_with_a_way_out(block: Block) -> None:
    with pytest.raises(NotImplementedError, match=r"cannot compile gn\.GroupNorm; use .* or torch\.jit\.trace"):
        torch.jit.script(block)
    assert isinstance(block.first, gn.GroupNorm)
