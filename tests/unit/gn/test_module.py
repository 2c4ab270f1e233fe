"""gn.GroupNorm is a drop-in for torch.nn.GroupNorm with further options."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import gn


@pytest.fixture(name="x")
def _x() -> torch.Tensor:
    return torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arguments", [(2, 6), (3, 6, 1e-3), (6, 6, 1e-3, False)])
def test_takes_the_arguments_of_torch_and_gives_its_result(x: torch.Tensor, arguments: tuple[object, ...]) -> None:
    theirs, ours = nn.GroupNorm(*arguments), gn.GroupNorm(*arguments)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, nn.GroupNorm)
    for name in ("num_groups", "num_channels", "eps", "affine"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_without_a_bias_it_has_no_bias() -> None:
    layer = gn.GroupNorm(2, 6, bias=False)
    assert layer.bias is None
    assert list(layer.state_dict()) == ["weight"]


def test_parameters_have_the_device_and_dtype_asked_for() -> None:
    layer = gn.GroupNorm(2, 6, device="meta", dtype=torch.float64)
    assert layer.weight.device.type == "meta"
    assert layer.bias.dtype == torch.float64


def test_adds_the_residual_before_the_activation(x: torch.Tensor) -> None:
    layer = gn.GroupNorm(2, 6, activation="relu")
    torch.testing.assert_close(layer(x, -x), torch.relu(nn.GroupNorm(2, 6)(x) - x))


def test_its_repr_names_the_activation_only_where_there_is_one() -> None:
    assert "activation='silu'" in repr(gn.GroupNorm(2, 6, activation="silu"))
    assert "activation" not in repr(gn.GroupNorm(2, 6))


def test_survives_pickling_and_copying(x: torch.Tensor) -> None:
    layer = gn.GroupNorm(2, 6, activation="gelu")
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert torch.equal(twin(x), layer(x))


def test_a_layer_of_torch_may_change_its_class(x: torch.Tensor) -> None:
    layer = nn.GroupNorm(2, 6)
    expected = layer(x)
    layer.__class__ = gn.GroupNorm
    torch.testing.assert_close(layer(x), expected)
    assert repr(layer) == repr(nn.GroupNorm(2, 6))
    layer.activation = "relu"  # type: ignore[assignment]
    torch.testing.assert_close(layer(x), expected.relu())


def test_a_pickled_layer_of_torch_loads_where_gn_replaces_it(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.GroupNorm(np.int64(2), 6)
    pickled = pickle.dumps(layer)
    monkeypatch.setattr(nn.modules.normalization, "GroupNorm", gn.GroupNorm)
    loaded = pickle.loads(pickled)
    assert type(loaded) is gn.GroupNorm
    torch.testing.assert_close(loaded(x), layer(x))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3, 10), {}, ValueError, r"num_channels \(10\) must be divisible by num_groups \(3\)"),
        ((0, 10), {}, ZeroDivisionError, "num_groups must be at least 1, got 0"),
        ((2, 10), {"activation": "tanh"}, ValueError, "'relu', 'silu', 'gelu', got 'tanh'"),
    ],
)
def test_refuses_bad_arguments(
    arguments: tuple[int, int], options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        gn.GroupNorm(*arguments, **options)
