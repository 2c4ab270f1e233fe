"""An exponential moving average of the weights, which a training evaluates and keeps instead of its latest weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from worker.training.flat_tensors import FlatParameters


class AveragedWeights:
    """The moving average of the parameters and of the running averages of a network.

    After each step, average ← decay · average + (1 - decay) · weights, from the initial weights on. The running
    averages of normalizations are averaged alike, so that they stay those of the averaged parameters.

    Args:
        decay: Share of the average that an update keeps.
        model: The network.
        parameters: Its parameters.
    """

    def __init__(self, decay: float, model: nn.Module, parameters: FlatParameters) -> None:
        self._share = 1 - decay
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._weights = [parameters.values, *buffers]
        self._average = [tensor.detach().clone() for tensor in self._weights]

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors of the average."""
        yield from self._average

    @torch.no_grad()
    def reset(self) -> None:
        """Begin at the present weights of the network."""
        torch._foreach_copy_(self._average, self._weights)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights of the network."""
        torch._foreach_lerp_(self._average, self._weights, self._share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the network; its own weights return at the end."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        own = [tensor.clone() for tensor in self._weights]
        torch._foreach_copy_(self._weights, self._average)
        torch._foreach_copy_(self._average, own)
