"""All parameters of a network in one tensor, and further tensors of the same layout for what belongs to them.

An optimizer then updates all of them as one. Each parameter begins at a multiple of 64 bytes.
"""

import torch
from torch import Tensor, nn

ALIGNMENT = 16
"""Elements of float32 in 64 bytes, a cache line."""


class FlatParameters:
    """Moves the parameters of a network into one tensor, with their shapes and strides.

    Args:
        model: A network in float32 on one device. Its parameters remain the same objects.

    Attributes:
        parameters: The parameters, views of `values`.
        values: float32 (n,).
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        # Those of whole cache lines come first, without gaps.
        order = sorted(range(len(self.parameters)), key=lambda n: self.parameters[n].numel() % ALIGNMENT != 0)
        self._starts = [0] * len(order)
        self._irregular: list[int] = []
        self._regular_size = size = 0
        for n in order:
            count = self.parameters[n].numel()
            self._starts[n] = size
            size += -(-count // ALIGNMENT) * ALIGNMENT
            if count % ALIGNMENT:
                self._irregular.append(n)
            else:
                self._regular_size = size
        self.values = torch.zeros(size, dtype=torch.float32, device=self.parameters[0].device)
        for parameter, view in zip(self.parameters, self.views(self.values), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view

    def zeros(self) -> Tensor:
        """Return zeros in the layout of `values`."""
        return torch.zeros_like(self.values)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return each parameter's part of `flat`, a tensor in the layout of `values`, with its shape and strides."""
        return [
            flat.as_strided(parameter.shape, parameter.stride(), start)
            for parameter, start in zip(self.parameters, self._starts, strict=True)
        ]

    def parts(self, flat: Tensor) -> list[Tensor]:
        """Return `flat` in as few parts as give the bits of an update parameter by parameter.

        torch's fused optimizers compute the last elements of a tensor, those that do not fill a vector register, with
        other roundings on a CPU. A parameter that has such elements is therefore a part of its own.
        """
        irregular = [flat[self._starts[n] : self._starts[n] + self.parameters[n].numel()] for n in self._irregular]
        return [part for part in (flat[: self._regular_size], *irregular) if len(part)]
