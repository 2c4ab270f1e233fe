"""The arguments of one group normalization, and the types of what a backend returns."""

from typing import NamedTuple

import torch
from torch import Tensor

from gn import layout

__all__ = ["Call", "Gradients", "Result"]

Result = tuple[Tensor, Tensor]
"""The output y, (N, C, *), and the statistics, (3, N, G): mean, correction of the mean, 1 / sqrt(variance + eps)."""

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]
"""The gradients of x, weight, bias and residual; empty for an x that needs none and for an absent residual."""


class Call(NamedTuple):
    """The arguments of `activation(group_norm(x) + residual)`, in the order of the operators' schemas.

    The arguments are valid: `gn.functional` has checked them. A backward pass takes the call of its forward pass with
    `residual` replaced by `saved_residual`.

    Attributes:
        x: (N, C, *).
        num_groups: G, a divisor of C.
        weight: (C,), or None for ones.
        bias: (C,), or None for zeros; of the dtype of `weight`.
        eps: Added to the variance.
        residual: (N, C, *), of the dtype of `x`, or None.
        activation: None, "relu", "silu" or "gelu".
    """

    x: Tensor
    num_groups: int
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    residual: Tensor | None = None
    activation: str | None = None

    def dense(self) -> "Call":
        """Return the call with `x` contiguous or channels-last; itself if it is already."""
        x = layout.dense(self.x)
        return self if x is self.x else self._replace(x=x)

    def parameter_dtype(self) -> torch.dtype:
        """Return the dtype of the gradients of `weight` and `bias`: theirs, or that of the statistics without them."""
        return layout.parameter_dtype(self.x, self.weight, self.bias)

    def saved_residual(self, y: Tensor) -> Tensor | None:
        """Return the tensor that backward needs in place of `residual`.

        The gradient of a ReLU depends only on the sign of its input, and the output `y` has that sign where it matters.
        The next layer saves `y` anyway, so saving it costs no memory. Without an activation the gradient of `residual`
        is the upstream gradient, and nothing is saved.

        Args:
            y: (N, C, *), the output of the forward pass.
        """
        if self.residual is None or self.activation is None:
            return None
        return y if self.activation == "relu" else self.residual
