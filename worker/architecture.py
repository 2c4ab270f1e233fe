"""The networks on paper: which normalized feature maps each model has.

`worker.models` builds its modules from these tables and `worker.spec` checks a normalization against them, so that a
job that cannot be built is refused before anything starts. Nothing here imports torch.

A feature map is named as the normalization layer is in the model's `state_dict`.
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
    """What one normalization layer sees: `num_channels` maps of `size` × `size` pixels."""

    layer: str
    num_channels: int
    size: int


@dataclass(frozen=True)
class ResNetArchitecture:
    """A residual network of basic blocks (He et al. 2015, arXiv 1512.03385) with a 3×3 stem for 32×32 images.

    `widths` are the channels of each stage; every stage but the first halves the image. `shortcut` is what joins blocks
    of different shapes: "pad" (option A of section 4.2: zeros, no parameters) or "project" (a normalized 1×1
    convolution, option B).
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    shortcut: Literal["pad", "project"]

    def feature_maps(self) -> Sequence[FeatureMap]:
        """Every normalized feature map, in the order of the forward pass."""
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
    """Plain 3×3 convolutions (with bias), each normalized; every block ends in a 2×2 max pooling.

    The 13 convolutions of labml.ai's `CIFAR10VGGModel`.
    """

    blocks: tuple[tuple[int, ...], ...]

    def feature_maps(self) -> Sequence[FeatureMap]:
        """Every normalized feature map, in the order of the forward pass."""
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
