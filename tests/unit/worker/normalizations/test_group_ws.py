"""Group normalization, with convolutions whose filters have mean 0 and variance 1."""

import numpy as np
import torch

from tests.unit.worker.normalizations.definitions import Array, batch, check, make
from tests.unit.worker.normalizations.filters import check_filters, standardized


def group(x: Array, groups: int, eps: float) -> Array:
    grouped = x.reshape(len(x), groups, -1)
    mean, variance = grouped.mean(2, keepdims=True), grouped.var(2, keepdims=True)
    return np.asarray((grouped - mean) / np.sqrt(variance + eps)).reshape(x.shape)


def test_the_definition() -> None:
    check({"type": "group_ws"}, lambda x: group(x, 8, 1e-5))
    check({"type": "group_ws", "channels_per_group": 4, "eps": 0.1}, lambda x: group(x, 4, 0.1))
    check_filters({"type": "group_ws"}, standardized)


def test_the_layer_is_that_of_group() -> None:
    x = torch.from_numpy(batch(0)).float()
    layers = [make({"type": type}, "relu").float() for type in ("group", "group_ws")]
    assert torch.equal(*(layer(x) for layer in layers))
