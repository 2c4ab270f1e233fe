"""The networks, built from `worker.architecture` and initialized from a seed.

Imports `worker.normalizations`, `worker.numerics` and the light modules.
"""

import math

import torch
from torch import nn

from worker.architecture import ARCHITECTURES, ModelName, ResNetArchitecture
from worker.models.resnet import ResidualBlock, ResNet
from worker.models.vgg import VGG
from worker.normalizations.registry import Normalization
from worker.numerics.precision import MEMORY_FORMAT
from worker.numerics.seeding import generator

__all__ = ["VGG", "ResNet", "build_model"]


def build_model(model: ModelName, normalization: Normalization, *, seed: int) -> nn.Module:
    """Build a network in float32 and channels-last format on the CPU: images (N, 3, 32, 32) to logits (N, 10).

    The initial value of a weight is a function of the seed, its name and its shape. Networks with different
    normalizations and the same seed therefore start with equal convolutions and an equal classifier. torch's global
    random number generator is neither used nor changed.
    """
    architecture = ARCHITECTURES[model]
    network: nn.Module = (
        ResNet(architecture, normalization)
        if isinstance(architecture, ResNetArchitecture)
        else VGG(architecture, normalization)
    )
    _initialize(network, seed)
    return network.to(memory_format=MEMORY_FORMAT)  # type: ignore[call-overload,no-any-return]


@torch.no_grad()
def _initialize(network: nn.Module, seed: int) -> None:
    """Initialize the weights in place.

    Convolutions: He et al. 2015 (arXiv 1502.01852), normal with standard deviation √(2 / fan_out) as in
    fb.resnet.torch, with which Wu & He 2018 trained. Classifier: uniform in ±1/√fan_in. Biases: 0. Residual blocks:
    identity (Goyal et al. 2017, section 5.1).
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            module.weight.normal_(0, math.sqrt(2 / fan_out), generator=generator(seed, "initialization", name))
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            module.weight.uniform_(-bound, bound, generator=generator(seed, "initialization", name))
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.zero_()
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.start_as_identity()
