"""The layers `GroupNorm` and `BatchNorm2d`."""

from typing import NoReturn

import torch
from torch import Tensor, nn

from gn import validation
from gn.functional import Activation, batch_norm, group_norm

__all__ = ["BatchNorm2d", "GroupNorm"]


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
        validation.check_activation(activation)
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


class BatchNorm2d(nn.BatchNorm2d):
    """A `torch.nn.BatchNorm2d` with a fused residual addition and activation, and ghost batches.

    Without them it computes what `torch.nn.BatchNorm2d` computes, and loads its state dict.

    Args:
        num_features: C of the input, (N, C, H, W).
        eps: Added to the variance.
        momentum: The weight of a batch in the running averages; None for the mean over all batches.
        affine: Learn a weight and a bias per channel.
        track_running_stats: Keep running averages, for evaluation.
        device: The device of the parameters.
        dtype: The dtype of the parameters.
        bias: With `affine`, learn a bias too.
        activation: None, "relu", "silu" or "gelu", applied to the sum of the normalized input and the residual.
        ghost_batch_size: In training, the number of consecutive samples that are normalized together; None for all.

    Raises:
        ValueError: The activation is unknown, or `ghost_batch_size` is not positive.
    """

    # The defaults are those of a torch.nn.BatchNorm2d whose class was replaced, and of one that was pickled.
    activation: Activation | None = None
    ghost_batch_size: int | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
        activation: Activation | None = None,
        ghost_batch_size: int | None = None,
    ) -> None:
        validation.check_activation(activation)
        if ghost_batch_size is not None:
            ghost_batch_size = validation.positive("ghost_batch_size", ghost_batch_size)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        # torch before 2.12 has no `bias` argument.
        if not bias:
            self.register_parameter("bias", None)
        self.activation = activation
        self.ghost_batch_size = ghost_batch_size

    def forward(  # type: ignore[override]
        self, input: Tensor, residual: Tensor | None = None, *, return_skip: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute `activation(batch_norm(input) + residual)`; see `gn.batch_norm` for its errors.

        Args:
            input: (N, C, H, W).
            residual: (N, C, H, W), added before the activation.
            return_skip: Return the output twice, for a network that uses it in two places.

        Returns:
            (N, C, H, W), of the dtype of `input`; with `return_skip` a pair of that.
        """
        self._check_input_dim(input)
        tracked = self.track_running_stats or not self.training
        momentum = self.momentum
        if momentum is None:
            momentum = 0.0
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self._count_batch()
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        arguments = (
            input,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            self.weight,
            self.bias,
            self.training or (self.running_mean is None and self.running_var is None),
            momentum,
            self.eps,
        )
        result: Tensor | tuple[Tensor, Tensor] = batch_norm(
            *arguments,
            residual=residual,
            activation=self.activation,
            ghost_batch_size=self.ghost_batch_size,
            return_skip=return_skip,  # type: ignore[call-overload]
        )
        return result

    def _count_batch(self) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)

    def __prepare_scriptable__(self) -> NoReturn:
        raise NotImplementedError(
            "torch.jit.script cannot compile gn.BatchNorm2d; use torch.compile, torch.export or torch.jit.trace"
        )

    def extra_repr(self) -> str:
        """Return the arguments as `torch.nn.BatchNorm2d` shows them, followed by those of gn that are not None."""
        options = {"activation": self.activation, "ghost_batch_size": self.ghost_batch_size}
        shown: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return shown + "".join(f", {name}={value!r}" for name, value in options.items() if value)
