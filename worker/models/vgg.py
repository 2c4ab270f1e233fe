"""The plain convolutional network of labml.ai's CIFAR-10 experiments, after Simonyan & Zisserman 2014."""

from torch import Tensor, nn
from torch.nn import functional as F

from worker.architecture import IMAGE_CHANNELS, NUM_CLASSES, VGGArchitecture
from worker.models.layers import Convolution, Linear
from worker.normalizations.layers import normalize
from worker.normalizations.registry import Normalization


class ConvolutionBlock(nn.Module):
    """A 3×3 convolution with bias, a normalization, and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, normalization: Normalization) -> None:
        super().__init__()
        self.conv = Convolution(in_channels, out_channels, 3, normalization=normalization, padding=1)
        self.norm = normalize(normalization, out_channels, "relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps (N, C', H, W) of x (N, C, H, W)."""
        normalized: Tensor = self.norm(self.conv(x))
        return normalized


class VGG(nn.Module):
    """Blocks of convolutions, each followed by 2×2 max pooling, and a linear classifier."""

    def __init__(self, architecture: VGGArchitecture, normalization: Normalization) -> None:
        super().__init__()
        channels = IMAGE_CHANNELS
        blocks = []
        for widths in architecture.blocks:
            layers = []
            for width in widths:
                layers.append(ConvolutionBlock(channels, width, normalization))
                channels = width
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = Linear(channels, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, 10) of images (N, 3, 32, 32)."""
        x = images
        for block in self.blocks:
            x = F.max_pool2d(block(x), 2)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits
