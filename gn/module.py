"""The layer `GroupNorm`."""

from typing import NoReturn

import torch
from torch import Tensor, nn

from gn.functional import Activation, group_norm
from gn.reference import ACTIVATIONS

__all__ = ["GroupNorm"]


class GroupNorm(nn.GroupNorm):
    """A `torch.nn.GroupNorm` with a fused residual addition and activation.

    Without a residual and an activation it computes what `torch.nn.GroupNorm` computes, and loads its state dict.

    Args:
        num_groups: The number of groups; a divisor of `num_channels`.
        num_channels: C of the input, (N, C, *).
        eps: Added to the variance.
        affine: Learn a weight and a bias per channel.
        device: The device of the parameters.
        dtype: The dtype of the parameters.
        bias: With `affine`, learn a bias too.
        activation: None, "relu", "silu" or "gelu", applied to the sum of the normalized input and the residual.

    Raises:
        ValueError: `num_groups` does not divide `num_channels`, or the activation is unknown.
        ZeroDivisionError: `num_groups` is zero.
    """

    # The default is that of a torch.nn.GroupNorm whose class was replaced, and of one that was pickled.
    activation: Activation | None = None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
    ) -> None:
        if num_groups == 0:
            raise ZeroDivisionError("num_groups must be at least 1, got 0")
        if activation is not None and activation not in ACTIVATIONS:
            known = ", ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"activation must be None or one of {known}, got {activation!r}")
        super().__init__(num_groups, num_channels, eps, affine, device, dtype)
        # torch before 2.12 has no `bias` argument.
        if not bias:
            self.register_parameter("bias", None)
        self.activation = activation

    def forward(  # type: ignore[override]
        self, input: Tensor, residual: Tensor | None = None, *, return_skip: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute `activation(group_norm(input) + residual)`; see `gn.group_norm` for its errors.

        Args:
            input: (N, C, *), in bfloat16, float16, float32 or float64.
            residual: (N, C, *), added before the activation.
            return_skip: Return the output twice, for a network that uses it in two places.

        Returns:
            (N, C, *), of the dtype of `input`; with `return_skip` a pair of that.
        """
        arguments = (input, self.num_groups, self.weight, self.bias, self.eps)
        if return_skip:
            return group_norm(*arguments, residual=residual, activation=self.activation, return_skip=True)
        return group_norm(*arguments, residual=residual, activation=self.activation)

    def __prepare_scriptable__(self) -> NoReturn:
        raise NotImplementedError(
            "torch.jit.script cannot compile gn.GroupNorm; use torch.compile, torch.export or torch.jit.trace"
        )

    def extra_repr(self) -> str:
        """Return the arguments as `torch.nn.GroupNorm` shows them, followed by the activation if it is not None."""
        activation = "" if self.activation is None else f", activation={self.activation!r}"
        return super().extra_repr() + activation
