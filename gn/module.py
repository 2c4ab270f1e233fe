"""GroupNorm, the layer."""

import torch
from torch import Tensor, nn

from gn.functional import Activation, group_norm
from gn.reference import ACTIVATIONS

__all__ = ["GroupNorm"]


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, with the addition of a residual and an activation fused into it.

    Args:
        num_groups: how many groups the channels are split into; it divides `num_channels`.
        num_channels: C of the input, (N, C, *).
        eps: added to the variance.
        affine: learn a weight, and a bias, per channel.
        device, dtype: of the parameters.
        bias: with `affine`, learn a bias too.
        activation: None, "relu", "silu" or "gelu", applied to the result.

    Raises:
        ValueError: `num_groups` does not divide `num_channels`, or the activation is not known.
        ZeroDivisionError: `num_groups` is zero.
    """

    activation: Activation | None

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
        # torch before 2.12 does not take `bias` itself.
        if not bias:
            self.register_parameter("bias", None)
        self.activation = activation

    def forward(  # type: ignore[override]
        self, input: Tensor, residual: Tensor | None = None, *, fork: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`activation(group_norm(input) + residual)`, (N, C, *); a pair of it with `fork`, as in `group_norm`."""
        arguments = (input, self.num_groups, self.weight, self.bias, self.eps)
        if fork:
            return group_norm(*arguments, residual=residual, activation=self.activation, fork=True)
        return group_norm(*arguments, residual=residual, activation=self.activation)

    def extra_repr(self) -> str:
        """The arguments, as `torch.nn.GroupNorm` shows them, and the activation where there is one."""
        activation = "" if self.activation is None else f", activation={self.activation!r}"
        return super().extra_repr() + activation
