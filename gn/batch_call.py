"""The arguments of one batch normalization."""

from typing import NamedTuple

import torch
from torch import Tensor

from gn import layout

__all__ = ["BatchCall"]


class BatchCall(NamedTuple):
    """The arguments of `activation(batch_norm(x) + residual)`.

    A backward pass takes the call of its forward pass with `residual` replaced by `saved_residual`.

    Attributes:
        x: (N, C, *).
        running_mean: (C,), or None.
        running_var: (C,), or None; given if and only if `running_mean` is.
        weight: (C,), or None for ones.
        bias: (C,), or None for zeros; of the dtype of `weight`.
        training: Normalize by the statistics of the batch; otherwise by the running averages.
        momentum: The weight of the batch in the running averages, which training updates.
        eps: Added to the variance.
        residual: (N, C, *), of the dtype of `x`, or None.
        activation: None, "relu", "silu" or "gelu".
        ghost_batch_size: The samples that share statistics in training, or None for all.
    """

    x: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    momentum: float
    eps: float
    residual: Tensor | None
    activation: str | None
    ghost_batch_size: int | None

    def dense(self) -> "BatchCall":
        """Return the call with `x` contiguous or channels-last; itself if it is already."""
        x = layout.dense(self.x)
        return self if x is self.x else self._replace(x=x)

    def set_samples(self) -> int:
        """Return the number of samples that share statistics; the last set may have fewer."""
        samples = self.x.shape[0]
        if self.ghost_batch_size is None or not self.training:
            return samples
        return min(self.ghost_batch_size, samples)

    def sets(self) -> int:
        """Return the number of sets of samples that share statistics."""
        return -(-self.x.shape[0] // self.set_samples())

    def parameter_dtype(self) -> torch.dtype:
        """Return the dtype of the gradients of `weight` and `bias`: theirs, or that of the statistics without them."""
        return layout.parameter_dtype(self.x, self.weight, self.bias)

    def saved_residual(self, y: Tensor) -> Tensor | None:
        """Return the tensor that backward needs in place of `residual`; see `gn.call.Call.saved_residual`."""
        if self.residual is None or self.activation is None:
            return None
        return y if self.activation == "relu" else self.residual
