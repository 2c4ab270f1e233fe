"""The mean of the workers' gradients, taken while the backward pass still computes others.

The work of DistributedDataParallel (Li et al. 2020, arXiv 2006.15704), whose buckets change after the first step of
every process: a sum over three workers or more would then be taken in another order, and a resumed training end in
other bits. Here buckets follow from the parameters alone.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

Exchange = Callable[[], AbstractContextManager[None]]
"""Within its context workers talk to each other: it says of an error what that means."""

BUCKET_BYTES = 8 * 2**20
"""Gradients travel together up to this size: large enough to keep a network busy, small enough to start early."""


class _Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.missing = len(parameters)
        self.flat: Tensor | None = None
        self.work: dist.Work | None = None

    def send(self, exchange: Exchange) -> None:
        self.flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in self.parameters])
        with exchange():
            self.work = dist.all_reduce(self.flat, async_op=True)

    def receive(self, size: int, exchange: Exchange) -> None:
        assert self.work is not None
        assert self.flat is not None
        with exchange():
            self.work.wait()
        means = torch.split(self.flat.div_(size), [parameter.numel() for parameter in self.parameters])
        for parameter, mean in zip(self.parameters, means, strict=True):
            _gradient(parameter).copy_(mean.view_as(parameter))
        self.missing, self.flat, self.work = len(self.parameters), None, None


class GradientAverage:
    """Averages the gradients of `model` over the `size` workers of the default process group.

    Every backward pass must reach every parameter, on every worker, in the same order. Whatever workers say to each
    other they say within `exchange`, also in the midst of the backward pass.
    """

    def __init__(self, model: nn.Module, size: int, exchange: Exchange) -> None:
        self._size, self._exchange = size, exchange
        # The last layers' gradients come first.
        self._buckets = [_Bucket(parameters) for parameters in _divide(list(model.parameters())[::-1])]
        self._sent = 0
        self._hooks: list[Any] = []
        for bucket in self._buckets:
            arrive = partial(self._arrive, bucket)
            for parameter in bucket.parameters:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(arrive))  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """Wait for the sums that are on their way; afterwards every gradient is the mean."""
        assert self._sent == len(self._buckets), "the backward pass left parameters out"
        for bucket in self._buckets:
            bucket.receive(self._size, self._exchange)
        self._sent = 0

    def remove(self) -> None:
        """Let the model go."""
        for hook in self._hooks:
            hook.remove()

    def _arrive(self, bucket: _Bucket, _parameter: nn.Parameter) -> None:
        bucket.missing -= 1
        # In the order of the buckets on every worker, whichever is complete first.
        while self._sent < len(self._buckets) and self._buckets[self._sent].missing == 0:
            self._buckets[self._sent].send(self._exchange)
            self._sent += 1


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


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
