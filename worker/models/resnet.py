"""Residual networks of basic blocks for 32×32 images (He et al. 2015, arXiv 1512.03385, section 4.2)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from worker.architecture import IMAGE_CHANNELS, NUM_CLASSES, ResNetArchitecture
from worker.models.layers import Convolution, Linear
from worker.normalizations.layers import NoNorm, OutputAndSkip, normalize, with_skip
from worker.normalizations.registry import Normalization
from worker.numerics.precision import MEMORY_FORMAT


class _PadChannels(torch.autograd.Function):
    """Every `stride`-th position of x (N, C, H, W), with `new_channels` channels of zeros around those of x.

    As slices and padding of torch it takes twice as many kernels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, new_channels: int) -> Tensor:
        chosen = x[:, :, ::stride, ::stride]
        images, channels, height, width = chosen.shape
        ctx.shape, ctx.stride = x.shape, stride
        ctx.own = slice(new_channels // 2, new_channels // 2 + channels)
        padded = _zeros(x, (images, channels + new_channels, height, width))
        padded[:, ctx.own].copy_(chosen)
        return padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        dx = _zeros(dy, ctx.shape)
        dx[:, :, :: ctx.stride, :: ctx.stride].copy_(dy[:, ctx.own])
        return dx, None, None


def _zeros(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=MEMORY_FORMAT).zero_()


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; each convolution is normalized, the second before the sum and the ReLU.

    The input and the output are pairs: one tensor for the convolutions of a block and one for its shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        shortcut: Literal["pad", "project"],
        normalization: Normalization,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels
        convolution = partial(Convolution, normalization=normalization, bias=False)
        self.conv1 = convolution(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm1 = normalize(normalization, out_channels, "relu")
        self.conv2 = convolution(out_channels, out_channels, 3, padding=1)
        self.norm2 = normalize(normalization, out_channels, "relu", ends_branch=True)
        self.shortcut: nn.Module | None = None
        self.shortcut_norm: nn.Module | None = None
        if shortcut == "project" and self.new_channels:
            self.shortcut = convolution(in_channels, out_channels, 1, stride=stride)
            self.shortcut_norm = normalize(normalization, out_channels)

    def forward(self, inputs: OutputAndSkip) -> OutputAndSkip:
        """Return the output (N, C', H', W') of the block for inputs (N, C, H, W), both twice."""
        x, skipping = inputs
        residual = self.join(skipping)
        x = self.norm1(self.conv1(x))
        return with_skip(self.norm2, self.conv2(x), residual)

    def join(self, x: Tensor) -> Tensor:
        """Return the shortcut, `x` in the shape of the output of the block."""
        if self.shortcut is not None and self.shortcut_norm is not None:
            projected: Tensor = self.shortcut_norm(self.shortcut(x))
            return projected
        if self.new_channels:
            padded: Tensor = _PadChannels.apply(x, self.stride, self.new_channels)  # type: ignore[no-untyped-call]
            return padded
        return x

    def start_as_identity(self) -> None:
        """Set the scale of the last normalization to 0 (Wu & He 2018, section 4.1).

        Without normalization the last convolution is set to 0 instead, which gives the same function; otherwise the
        variance of the feature maps would double in every block. A normalization without a scale is left unchanged,
        and one whose branches start at 0 anyway (`skip_gain`).
        """
        if isinstance(self.norm2, NoNorm):
            nn.init.zeros_(self.conv2.weight)
        elif not hasattr(self.norm2, "skip_gain") and isinstance(scale := getattr(self.norm2, "weight", None), Tensor):
            nn.init.zeros_(scale)


class ResNet(nn.Module):
    """A 3×3 stem, stages of residual blocks, global average pooling, and a linear classifier."""

    def __init__(self, architecture: ResNetArchitecture, normalization: Normalization) -> None:
        super().__init__()
        channels = architecture.widths[0]
        self.stem = Convolution(IMAGE_CHANNELS, channels, 3, normalization=normalization, padding=1, bias=False)
        self.stem_norm = normalize(normalization, channels, "relu")
        stages = []
        for stage, (width, blocks) in enumerate(zip(architecture.widths, architecture.blocks, strict=True)):
            layers = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(channels, width, stride, architecture.shortcut, normalization))
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.classifier = Linear(channels, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, 10) of images (N, 3, 32, 32)."""
        x, _ = self.stages(with_skip(self.stem_norm, self.stem(images)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
