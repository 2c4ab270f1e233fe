"""The normalization layers, built from the `normalization` of a spec.

Every layer is called as `layer(x)` or `layer(x, residual)` and returns activation(normalize(x) + residual), so that one
definition of a model serves all normalizations.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gn
from worker.distributed.process_group import SINGLE_WORKER, ProcessGroup
from worker.normalizations.batch import BatchNormalization
from worker.normalizations.batch_ws import BatchWSNormalization
from worker.normalizations.group import GroupNormalization
from worker.normalizations.group_ws import GroupWSNormalization
from worker.normalizations.instance import InstanceNormalization
from worker.normalizations.layer import LayerNormalization
from worker.normalizations.none import NoNormalization
from worker.normalizations.normalization import Activation, NormalizationSpec, Place
from worker.normalizations.sync_batch import SyncBatchNormalization


def normalize(
    normalization: NormalizationSpec,
    num_channels: int,
    activation: Activation | None = None,
    *,
    ends_branch: bool = False,
) -> nn.Module:
    """Return the layer for feature maps of shape (N, num_channels, H, W).

    Args:
        normalization: The normalization.
        num_channels: Channels of the feature maps.
        activation: The activation after the sum with the residual.
        ends_branch: Whether the layer is the last one of a residual branch.
    """
    match normalization:
        case BatchNormalization(eps=eps, momentum=momentum, affine=affine, ghost_batch_size=ghost_batch_size):
            return BatchNorm(
                num_channels,
                eps=eps,
                momentum=momentum,
                affine=affine,
                activation=activation,
                ghost_batch_size=ghost_batch_size,
            )
        case BatchWSNormalization(eps=eps, momentum=momentum, affine=affine):
            return BatchNorm(num_channels, eps=eps, momentum=momentum, affine=affine, activation=activation)
        case SyncBatchNormalization(eps=eps, momentum=momentum, affine=affine):
            return SyncBatchNorm(num_channels, eps=eps, momentum=momentum, affine=affine, activation=activation)
        case LayerNormalization(eps=eps, affine=affine):
            return gn.GroupNorm(1, num_channels, eps=eps, affine=affine, activation=activation)
        case InstanceNormalization(eps=eps, affine=affine):
            return gn.GroupNorm(num_channels, num_channels, eps=eps, affine=affine, activation=activation)
        case GroupNormalization(eps=eps, affine=affine) | GroupWSNormalization(eps=eps, affine=affine):
            num_groups = normalization.groups(num_channels)
            return gn.GroupNorm(num_groups, num_channels, eps=eps, affine=affine, activation=activation)
        case NoNormalization():
            return NoNorm(activation)
        case _:
            return FormulaLayer(normalization, Place(num_channels, activation, ends_branch))


OutputAndSkip = tuple[Tensor, Tensor]
"""The same output twice: the input of the next layer, and of the skip connection past it."""


def with_skip(layer: nn.Module, x: Tensor, residual: Tensor | None = None) -> OutputAndSkip:
    """Return `layer(x, residual)` twice, for use in two places.

    gn's backward adds the two gradients while it reads them, which moves fewer bytes than autograd's sum.

    Args:
        layer: A layer of `normalize`.
        x: (N, C, H, W).
        residual: (N, C, H, W), added before the activation.
    """
    if isinstance(layer, gn.GroupNorm | gn.BatchNorm2d):
        pair: OutputAndSkip = layer(x, residual, return_skip=True)
        return pair
    y = layer(x, residual)
    return y, y


class FormulaLayer(nn.Module):
    """The layer of a normalization without a kernel of its own: its formula, computed in at least float32.

    Args:
        formula: The normalization.
        place: Where the layer stands.
    """

    def __init__(self, formula: NormalizationSpec, place: Place) -> None:
        super().__init__()
        self.formula, self.place = formula, place
        for name, (value, shape) in formula.parameters(place).items():
            self.register_parameter(name, nn.Parameter(torch.full(shape, value)))
        for name, (value, shape) in formula.buffers(place).items():
            self.register_buffer(name, torch.full(shape, value))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Tensor: ...

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return activation(normalize(x) + residual) for `x` and `residual` of shape (N, C, H, W)."""
        return self.formula.forward(_at_least_float32(x), residual, self).to(x.dtype)


class BatchNorm(gn.BatchNorm2d):
    """gn's batch normalization.

    With `ghost_batch_size`, training normalizes each consecutive chunk of that many images by the statistics of the
    chunk (Hoffer et al. 2017, arXiv 1705.08741, section 4). The last chunk of a batch may be smaller. The running
    averages are updated once per batch, by the mean of the statistics of its chunks, weighted by their numbers of
    images, so that evaluation uses the variance within chunks, as training does; the paper updates them once per chunk.
    A batch that is not larger than a chunk is normalized as a whole.

    Attributes:
        counts_batches: Whether a call in training adds 1 to `num_batches_tracked`. A training step sets it to False and
            adds 1 to those of all layers at once.
    """

    momentum: float
    counts_batches = True

    def __init__(
        self,
        num_channels: int,
        *,
        eps: float,
        momentum: float,
        affine: bool,
        activation: Activation | None,
        ghost_batch_size: int | None = None,
    ) -> None:
        super().__init__(
            num_channels,
            eps=eps,
            momentum=momentum,
            affine=affine,
            activation=activation,
            ghost_batch_size=ghost_batch_size,
        )

    def _count_batch(self) -> None:
        if self.counts_batches:
            super()._count_batch()


class SyncBatchNorm(BatchNorm):
    """`BatchNorm` with statistics over the batches of all workers of `process_group`, which must be of equal size.

    With a single worker, and in evaluation mode, it is equal to `BatchNorm`.
    """

    process_group: ProcessGroup = SINGLE_WORKER

    def forward(  # type: ignore[override]
        self, input: Tensor, residual: Tensor | None = None, *, return_skip: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return activation(normalize(input) + residual), normalized by the mean and the variance over all workers."""
        if not self.training or self.process_group.world_size == 1:
            return super().forward(input, residual, return_skip=return_skip)
        y = self._normalize(input)
        if residual is not None:
            y = y.add_(residual)
        if self.activation:
            y = F.relu(y, inplace=True)
        return (y, y) if return_skip else y

    def _normalize(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        normalized: Tensor
        normalized, mean, variance = _GlobalBatchNorm.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.eps, self.process_group
        )
        values = self.process_group.world_size * x.numel() / x.shape[1]
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (values / (values - 1)), self.momentum)
        self._count_batch()
        return normalized


class _GlobalBatchNorm(torch.autograd.Function):
    """Batch normalization of the images of one worker by the statistics of all workers, in at least float32.

    With equally many values per worker, the variance over all workers is the mean of their variances plus the variance
    of their means (Chan et al. 1979). The backward pass takes the means of dy and of dy × normalized over all workers.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = _at_least_float32(x)
        own_variance, own_mean = torch.var_mean(values, _ALL_BUT_CHANNELS, correction=0)
        means, variances = group.gather_tensor(torch.cat([own_mean, own_variance])).chunk(2, dim=1)
        mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        normalized = F.batch_norm(values, mean, variance, weight, bias, training=False, eps=eps).to(x.dtype)
        ctx.save_for_backward(x, weight, bias, mean, torch.rsqrt(variance + eps))
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance)
        return normalized, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        normalized = (_at_least_float32(x) - _per_channel(mean)) * _per_channel(scale)
        gradient = _at_least_float32(gradient)
        sums = torch.cat([gradient.sum(_ALL_BUT_CHANNELS), (gradient * normalized).sum(_ALL_BUT_CHANNELS)])
        values = ctx.group.world_size * x.numel() / x.shape[1]
        means = ctx.group.gather_tensor(sums).sum(0) / values
        of_gradient, of_product = map(_per_channel, means.chunk(2))
        scale = scale if weight is None else scale * weight
        of_x = (gradient - of_gradient - normalized * of_product) * _per_channel(scale)
        of_bias, of_weight = sums.chunk(2)
        return of_x.to(x.dtype), None if weight is None else of_weight, None if bias is None else of_bias, None, None


_ALL_BUT_CHANNELS = (0, 2, 3)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _per_channel(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1)


class NoNorm(nn.Module):
    """No normalization: the sum with a residual, followed by the activation."""

    def __init__(self, activation: Activation | None) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return activation(x + residual) for `x` and `residual` of one shape."""
        if residual is None:
            return F.relu(x) if self.activation else x
        x = x + residual
        return F.relu(x, inplace=True) if self.activation else x
