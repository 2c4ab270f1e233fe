"""RMS normalization divides groups of channels by their root mean square."""

from typing import Any

import numpy as np
import pytest

from tests.unit.worker.normalizations.definitions import Array, check


def rms(x: Array, groups: int, eps: float) -> Array:
    grouped = x.reshape(len(x), groups, -1)
    return np.asarray(grouped / np.sqrt((grouped**2).mean(2, keepdims=True) + eps)).reshape(x.shape)


@pytest.mark.parametrize(
    ("given", "groups", "eps"),
    [({}, 8, 1e-5), ({"num_groups": 1, "eps": 0.1}, 1, 0.1), ({"channels_per_group": 4, "affine": False}, 4, 1e-5)],
)
def test_the_definition(given: dict[str, Any], groups: int, eps: float) -> None:
    check({"type": "rms"} | given, lambda x: rms(x, groups, eps))
