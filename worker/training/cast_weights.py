"""The weights in the precision of the activations, cast as one tensor.

`torch.autocast` casts the weights of each layer by themselves, and their gradients back: two kernels for each of them.
One kernel for all gives the same bits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worker.models.layers import Convolution, Linear
from worker.training.flat_tensors import FlatParameters


class CastWeights:
    """Copies in bfloat16 of the parameters that only convolutions and linear layers read.

    Filters that a normalization replaces are computed from the parameters in float32, so they have no copy.

    Args:
        model: The network of `parameters`.
        parameters: Its parameters in float32.

    Attributes:
        flat: All copies, in the layout of the parameters.
        weights: The copy of each such parameter by its name, with gradients of their own.
        leaves: All parameters in their order, where they have a copy the copy: gradients are computed for these.
    """

    def __init__(self, model: nn.Module, parameters: FlatParameters) -> None:
        self._values = parameters.values
        self.flat = torch.zeros_like(self._values, dtype=torch.bfloat16)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        selected = {id(parameter) for module in model.modules() for parameter in _read_in_precision(module)}
        self.weights: dict[str, Tensor] = {}
        self.leaves: list[Tensor] = []
        for parameter, copy in zip(parameters.parameters, parameters.views(self.flat), strict=True):
            if id(parameter) in selected:
                self.weights[names[id(parameter)]] = leaf = copy.requires_grad_()
                self.leaves.append(leaf)
            else:
                self.leaves.append(parameter)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the current values."""
        self.flat.copy_(self._values)


def _read_in_precision(module: nn.Module) -> Sequence[nn.Parameter]:
    if not isinstance(module, Convolution | Linear):
        return []
    replaced = isinstance(module, Convolution) and module.normalization.filters(module.weight) is not module.weight
    return [parameter for name, parameter in module.named_parameters() if not (replaced and name == "weight")]
