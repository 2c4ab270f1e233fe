"""Gradient averaging over the workers of a job, overlapped with the backward pass.

This does the work of DistributedDataParallel (Li et al. 2020, arXiv 2006.15704). DistributedDataParallel regroups its
buckets after the first step of a process; a resumed training on three or more workers would then sum gradients in
another order and end with other bits. Here the buckets depend on the parameters alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

Guard = Callable[[], AbstractContextManager[None]]
"""Makes the context in which workers communicate; it translates the errors of torch.distributed."""

BUCKET_BYTES = 8 * 2**20
"""Upper limit of a bucket: large enough to use the network well, small enough to start early."""


class _Bucket:
    """Parameters whose gradients are reduced in one collective."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.gradients: dict[nn.Parameter, Tensor] = {}
        self.flat: Tensor | None = None
        self.work: dist.Work | None = None

    @property
    def is_complete(self) -> bool:
        return len(self.gradients) == len(self.parameters)

    def start_reduction(self, guard: Guard) -> None:
        self.flat = torch.cat([self.gradients[parameter].reshape(-1) for parameter in self.parameters])
        with guard():
            self.work = dist.all_reduce(self.flat, async_op=True)

    def finish_reduction(self, world_size: int, guard: Guard) -> dict[nn.Parameter, Tensor]:
        """Return the mean gradient of each parameter."""
        assert self.work is not None
        assert self.flat is not None
        with guard():
            self.work.wait()
        means = torch.split(self.flat.div_(world_size), [parameter.numel() for parameter in self.parameters])
        self.gradients, self.flat, self.work = {}, None, None
        return {parameter: mean.view_as(parameter) for parameter, mean in zip(self.parameters, means, strict=True)}


class GradientAverage:
    """Averages the gradients of a model over the workers of the default process group.

    Every backward pass must reach every parameter, in the same order on every worker.

    Args:
        model: The model; hooks on its parameters start the reductions.
        world_size: Number of workers.
        guard: Makes the context of every communication, including those during the backward pass.
    """

    def __init__(self, model: nn.Module, world_size: int, guard: Guard) -> None:
        self._world_size, self._guard = world_size, guard
        self._parameters = list(model.parameters())
        # The backward pass computes the gradients of the last layers first.
        self._buckets = [_Bucket(parameters) for parameters in _divide(self._parameters[::-1])]
        self._started = 0
        self._hooks: list[Any] = []
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                hook = partial(self._on_gradient, bucket, parameter)
                self._hooks.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]

    def finish(self) -> list[Tensor]:
        """Wait for the reductions of this backward pass; return the means of the gradients over the workers."""
        assert self._started == len(self._buckets), "the backward pass did not reach every parameter"
        means: dict[nn.Parameter, Tensor] = {}
        for bucket in self._buckets:
            means |= bucket.finish_reduction(self._world_size, self._guard)
        self._started = 0
        return [means[parameter] for parameter in self._parameters]

    def remove_hooks(self) -> None:
        """Remove the hooks from the model."""
        for hook in self._hooks:
            hook.remove()

    def _on_gradient(self, bucket: _Bucket, parameter: nn.Parameter, gradient: Tensor) -> None:
        bucket.gradients[parameter] = gradient
        # Every worker starts the buckets in this order, whichever is complete first.
        while self._started < len(self._buckets) and self._buckets[self._started].is_complete:
            self._buckets[self._started].start_reduction(self._guard)
            self._started += 1


def _divide(parameters: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    parts: list[list[nn.Parameter]] = []
    size = BUCKET_BYTES
    for parameter in parameters:
        if size >= BUCKET_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(parameter)
        size += parameter.nbytes
    return parts
