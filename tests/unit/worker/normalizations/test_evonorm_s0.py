"""EvoNorm-S0: x · sigmoid(v·x) / deviation of the group × γ + β."""

from typing import Any

import numpy as np
import pytest

from tests.unit.worker.normalizations.definitions import Array, check


def evonorm_s0(x: Array, groups: int, eps: float, v: Array | None) -> Array:
    if v is None:  # without an activation
        return x
    variance = x.reshape(len(x), groups, -1).var(2)
    deviation = np.repeat(np.sqrt(variance + eps), 16 // groups, axis=1)
    return np.asarray(x / (1 + np.exp(-v * x)) / deviation[:, :, None, None])


@pytest.mark.parametrize(
    ("given", "groups", "eps"), [({}, 8, 1e-5), ({"num_groups": 2, "eps": 0.1}, 2, 0.1), ({"affine": False}, 8, 1e-5)]
)
def test_the_definition(given: dict[str, Any], groups: int, eps: float) -> None:
    check(
        {"type": "evonorm_s0"} | given,
        lambda x, v=None: evonorm_s0(x, groups, eps, v),
        activate=lambda y, **_: y,
    )
