"""The architectures of the models as tables, with every feature map that is normalized. Does not import torch.

`worker.models` builds the networks from these tables, and `worker.spec` checks a normalization against them, so that a
job that cannot be built is refused before it starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ModelName = Literal["resnet20", "resnet56", "resnet18", "vgg"]

IMAGE_SIZE = 32
IMAGE_CHANNELS = 3
NUM_CLASSES = 10


@dataclass(frozen=True)
class FeatureMap:
    """The input of one normalization layer.

    Attributes:
        layer: Name of the normalization layer in the `state_dict` of the model.
        num_channels: Number of channels.
        size: Height and width in pixels.
    """

    layer: str
    num_channels: int
    size: int


@dataclass(frozen=True)
class ResNetArchitecture:
    """A residual network of basic blocks (He et al. 2015, arXiv 1512.03385) with a 3×3 stem for 32×32 images.

    Attributes:
        widths: Channels of each stage; every stage but the first halves height and width.
        blocks: Number of blocks of each stage.
        shortcut: How a shortcut changes its shape: "pad" adds zeros and has no parameters (section 4.2, option A),
            "project" is a normalized 1×1 convolution (option B).
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    shortcut: Literal["pad", "project"]

    def feature_maps(self) -> Sequence[FeatureMap]:
        """Return every normalized feature map in the order of the forward pass."""
        size = IMAGE_SIZE
        maps = [FeatureMap("stem_norm", self.widths[0], size)]
        num_channels = self.widths[0]
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            for block in range(blocks):
                if stage > 0 and block == 0:
                    size //= 2
                prefix = f"stages.{stage}.{block}"
                if self.shortcut == "project" and num_channels != width:
                    maps.append(FeatureMap(f"{prefix}.shortcut_norm", width, size))
                maps += [FeatureMap(f"{prefix}.norm1", width, size), FeatureMap(f"{prefix}.norm2", width, size)]
                num_channels = width
        return maps


@dataclass(frozen=True)
class VGGArchitecture:
    """Normalized 3×3 convolutions with bias, in blocks that end with 2×2 max pooling.

    With the 13 convolutions of labml.ai's `CIFAR10VGGModel`.

    Attributes:
        blocks: Channels of each convolution of each block.
    """

    blocks: tuple[tuple[int, ...], ...]

    def feature_maps(self) -> Sequence[FeatureMap]:
        """Return every normalized feature map in the order of the forward pass."""
        return [
            FeatureMap(f"blocks.{block}.{layer}.norm", num_channels, IMAGE_SIZE >> block)
            for block, widths in enumerate(self.blocks)
            for layer, num_channels in enumerate(widths)
        ]


ARCHITECTURES: dict[ModelName, ResNetArchitecture | VGGArchitecture] = {
    "resnet20": ResNetArchitecture(widths=(16, 32, 64), blocks=(3, 3, 3), shortcut="pad"),
    "resnet56": ResNetArchitecture(widths=(16, 32, 64), blocks=(9, 9, 9), shortcut="pad"),
    "resnet18": ResNetArchitecture(widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2), shortcut="project"),
    "vgg": VGGArchitecture(blocks=((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)),
}
