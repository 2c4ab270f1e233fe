"""What a normalization consists of: its fields, its formula, and what the rest of the project has to know about it.

A formula is written with the methods of tensors, so that a module that defines a normalization does not import torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict

from worker.validation import StrictModel

if TYPE_CHECKING:
    from torch import Tensor

    from worker.normalizations.layers import FormulaLayer

Activation = Literal["relu"]
Replaced = Literal["activation", "convolution"]


class Place(NamedTuple):
    """Where a layer stands in a network.

    Attributes:
        num_channels: Channels of the feature maps.
        activation: The activation after the sum with the residual; None for none.
        ends_branch: Whether the layer is the last one of a residual branch.
    """

    num_channels: int
    activation: Activation | None = None
    ends_branch: bool = False


class Constant(NamedTuple):
    """The initial value of a parameter or a buffer, which is the same number everywhere.

    Attributes:
        value: The number; an integer makes an int64 tensor.
        shape: Shape of the tensor.
    """

    value: float
    shape: tuple[int, ...] = ()

    @classmethod
    def per_channel(cls, value: float, num_channels: int) -> "Constant":
        """Return a constant that broadcasts over feature maps (N, num_channels, H, W)."""
        return cls(value, (num_channels, 1, 1))


def _describe(schema: dict[str, Any], normalization: type["NormalizationSpec"]) -> None:
    """Add to the description in the JSON schema, which forms show, what the normalization needs."""
    schema["description"] = " ".join(filter(None, [schema.get("description", ""), normalization.needs]))


class NormalizationSpec(StrictModel):
    """The base of the normalizations. The name of the module that defines one is its `type`.

    Attributes:
        reference: The publication, with its arXiv number.
        needs: A sentence about what the normalization needs, such as a warm-up or a least number of values; the API
            and the forms show it.
        replaces: What the normalization replaces besides the normalization layer.
        over_the_batch: Whether training normalizes with statistics over images.
        not_distributed: The reason why a job must have a single worker; empty if it may have several.
    """

    model_config = ConfigDict(json_schema_extra=_describe)

    type: str

    reference: ClassVar[str]
    needs: ClassVar[str]
    replaces: ClassVar[tuple[Replaced, ...]] = ()
    over_the_batch: ClassVar[bool] = False
    not_distributed: ClassVar[str] = ""

    def images_together(self, batch_size: int, num_workers: int) -> int | None:
        """Return the number of images that training normalizes by the same statistics; None for each one by itself.

        Args:
            batch_size: Images per step and worker.
            num_workers: Workers of the job.
        """
        return batch_size if self.over_the_batch else None

    def channels_together(self, num_channels: int) -> int | None:
        """Return the number of channels of a statistic over one image; None without such a statistic."""
        return None

    def kept_per_step(self, batch_size: int) -> float | None:
        """Return the share of a running average that a step of training keeps; None without running averages."""
        momentum: float | None = getattr(self, "momentum", None)
        return None if momentum is None else 1 - momentum

    def parameters(self, place: Place) -> Mapping[str, Constant]:
        """Return the learned parameters of a layer: by default a scale and a shift, unless `affine` is false."""
        if not getattr(self, "affine", True):
            return {}
        return {
            "weight": Constant.per_channel(1.0, place.num_channels),
            "bias": Constant.per_channel(0.0, place.num_channels),
        }

    def buffers(self, place: Place) -> Mapping[str, Constant]:
        """Return the state of a layer that is not learned, such as running averages; a checkpoint contains it."""
        return {}

    def forward(self, x: "Tensor", residual: "Tensor | None", layer: "FormulaLayer") -> "Tensor":
        """Return activation(scale × normalized + shift + residual).

        Args:
            x: (N, C, H, W), in at least float32.
            residual: (N, C, H, W), or None.
            layer: The layer, with its parameters and buffers.
        """
        y = self.scale_and_shift(self.normalize(x, layer), layer)
        if residual is not None:
            y = y + residual
        return self.activate(y, layer) if layer.place.activation else y

    def normalize(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return the normalized `x`; `layer.training` tells training from evaluation."""
        raise NotImplementedError

    def scale_and_shift(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return `x` with the learned scale and shift of each channel."""
        return x * layer.weight + layer.bias if getattr(self, "affine", True) else x

    def activate(self, x: "Tensor", layer: "FormulaLayer") -> "Tensor":
        """Return the activation of `x`."""
        return x.relu()

    def filters(self, weight: "Tensor") -> "Tensor":
        """Return the filters that a convolution uses, for its learned `weight` (C', C, k, k)."""
        return weight
