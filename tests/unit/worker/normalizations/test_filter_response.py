"""Filter response normalization divides a channel of an image by its root mean square; the activation is max(y, τ)."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.worker.normalizations.definitions import Array, check, specification
from worker.normalizations.layers import normalize


def filter_response(x: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt((x**2).mean((2, 3), keepdims=True) + eps))


def thresholded(y: Array, threshold: Array) -> Array:
    return np.maximum(y, threshold)


@pytest.mark.parametrize(("given", "eps"), [({}, 1e-6), ({"eps": 0.1, "affine": False}, 0.1)])
def test_the_definition(given: dict[str, Any], eps: float) -> None:
    check({"type": "filter_response"} | given, lambda x, **_: filter_response(x, eps), activate=thresholded)


def test_the_threshold_starts_as_the_relu_and_exists_where_there_is_an_activation() -> None:
    formula = specification({"type": "filter_response"})
    threshold = normalize(formula, 16, "relu").get_parameter("threshold")
    assert torch.equal(threshold, torch.zeros(16, 1, 1))
    assert [name for name, _ in normalize(formula, 16).named_parameters()] == ["weight", "bias"]
