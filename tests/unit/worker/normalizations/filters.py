"""Filters of a convolution, and how they are standardized, in float64 NumPy."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from tests.unit.worker.normalizations.definitions import Array, batch, specification
from worker.models.layers import Convolution


def check_filters(given: dict[str, Any], expected: Any) -> None:
    """Compare the filters, and the gradient of the weights, of a convolution with `expected(weight)`."""
    convolution = Convolution(16, 6, 3, normalization=specification(given), padding=1).double()
    with torch.no_grad():
        for number, parameter in enumerate(convolution.parameters()):
            noise = np.random.default_rng(number).normal(0.2, 0.5, parameter.shape)
            parameter.copy_(torch.from_numpy(noise))
    weight, bias = convolution.weight.detach(), convolution.bias
    x = torch.from_numpy(batch(0))
    found = convolution(x)
    torch.testing.assert_close(found, F.conv2d(x, torch.from_numpy(expected(weight.numpy())), bias, padding=1))
    formula = convolution.normalization.filters
    assert torch.autograd.gradcheck(formula, weight[:2, :3, :2, :2].clone().requires_grad_())


def standardized(weight: Array) -> Array:
    """Return filters of mean 0 and variance 1 (Qiao et al. 2019)."""
    axes = (1, 2, 3)
    return np.asarray((weight - weight.mean(axes, keepdims=True)) / np.sqrt(weight.var(axes, keepdims=True) + 1e-5))
