"""Gradient averaging over the workers of a job, overlapped with the backward pass.

This does the work of DistributedDataParallel (Li et al. 2020, arXiv 2006.15704). DistributedDataParallel regroups its
buckets after the first step of a process; a resumed training on three or more workers would then sum gradients in
another order and end with other bits. Here the buckets depend on the parameters alone.
"""

from collections.abc import Callable, Sequence
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
    """Parameters whose gradients are consecutive in memory and are reduced in one collective."""

    def __init__(self, flat: Tensor, views: list[Tensor]) -> None:
        self.flat, self.views = flat, views
        self.gradients: dict[int, Tensor] = {}
        self.work: dist.Work | None = None

    @property
    def is_complete(self) -> bool:
        return len(self.gradients) == len(self.views)

    def start_reduction(self, guard: Guard) -> None:
        torch._foreach_copy_(self.views, [self.gradients[number] for number in range(len(self.views))])
        self.gradients = {}
        with guard():
            self.work = dist.all_reduce(self.flat, async_op=True)

    def finish_reduction(self, guard: Guard) -> None:
        assert self.work is not None
        with guard():
            self.work.wait()
        self.work = None


class GradientAverage:
    """Averages the gradients of parameters over the workers of the default process group.

    Every backward pass must reach every parameter, in the same order on every worker.

    Args:
        parameters: The parameters; hooks on them start the reductions.
        flat: The memory for the means of all gradients, (n,).
        views: The part of `flat` of each parameter, with its shape. Other elements of `flat` are reduced too.
        world_size: Number of workers.
        guard: Makes the context of every communication, including those during the backward pass.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], flat: Tensor, views: Sequence[Tensor], world_size: int, guard: Guard
    ) -> None:
        self._flat, self._world_size, self._guard = flat, world_size, guard
        self._views = views
        self._buckets: list[_Bucket] = []
        self._started = 0
        self._hooks: list[Any] = []
        end = len(flat)
        for numbers in _divide(self._views):
            begin = int(min(self._views[number].storage_offset() for number in numbers) - flat.storage_offset())
            bucket = _Bucket(flat[begin:end], [self._views[number] for number in numbers])
            end = begin
            self._buckets.append(bucket)
            for place, number in enumerate(numbers):
                hook = partial(self._on_gradient, bucket, place)
                self._hooks.append(parameters[number].register_hook(hook))  # type: ignore[no-untyped-call]

    def finish(self) -> Sequence[Tensor]:
        """Wait for the reductions of this backward pass; return the views, which hold the means over the workers."""
        assert self._started == len(self._buckets), "the backward pass did not reach every parameter"
        for bucket in self._buckets:
            bucket.finish_reduction(self._guard)
        self._flat.div_(self._world_size)
        self._started = 0
        return self._views

    def remove_hooks(self) -> None:
        """Remove the hooks from the parameters."""
        for hook in self._hooks:
            hook.remove()

    def _on_gradient(self, bucket: _Bucket, place: int, gradient: Tensor) -> None:
        bucket.gradients[place] = gradient
        # Every worker starts the buckets in this order, whichever is complete first.
        while self._started < len(self._buckets) and self._buckets[self._started].is_complete:
            self._buckets[self._started].start_reduction(self._guard)
            self._started += 1


def _divide(views: Sequence[Tensor]) -> list[list[int]]:
    """Return the numbers of the views of each bucket.

    The backward pass computes the gradients of the last layers first, which are at the end of the memory.
    """
    parts: list[list[int]] = []
    size = BUCKET_BYTES
    for number in sorted(range(len(views)), key=lambda number: views[number].storage_offset(), reverse=True):
        if size >= BUCKET_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(number)
        size += views[number].nbytes
    return parts
