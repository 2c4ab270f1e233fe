"""What the normalization-activation layers of EvoNorm share (Liu et al. 2020)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from worker.normalizations.normalization import Constant, NormalizationSpec, Place

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer


class EvoNormSpec(NormalizationSpec):
    """The base of the EvoNorm layers, which replace a normalization and the activation that follows it.

    Where a sum lies between them, and where there is no activation, the layer is a scale and a shift, and the ReLU
    after the sum stays, as in the code of the authors (`nonlinearity=False`).
    """

    replaces = ("activation",)

    def replaces_at(self, place: Place) -> bool:
        """Return whether an activation follows the layer at once."""
        return place.activation is not None and not place.ends_branch

    def parameters(self, place: Place) -> Mapping[str, Constant]:
        """Return the scale and the shift, and `v`, which is 1 at first."""
        v = {"v": Constant.per_channel(1.0, place.num_channels)} if self.replaces_at(place) else {}
        return {**super().parameters(place), **v}

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return the normalized and activated `x`; `x` itself where no activation follows at once."""
        return self.normalize_and_activate(x, layer) if self.replaces_at(layer.place) else x

    def normalize_and_activate(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return `x` without the scale and the shift."""
        raise NotImplementedError

    def activate(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return the ReLU after a sum, otherwise `x`."""
        return x.relu() if layer.place.ends_branch else x
