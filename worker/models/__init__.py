"""The networks: built from `worker.architecture`, initialized from a seed. Imports `worker.normalizations.layers`."""

import math

import torch
from torch import nn

from worker.architecture import ARCHITECTURES, ModelName, ResNetArchitecture
from worker.data.batches import generator
from worker.models.resnet import ResidualBlock, ResNet
from worker.models.vgg import VGG
from worker.spec import Normalization
from worker.training.precision import MEMORY_FORMAT

__all__ = ["VGG", "ResNet", "build_model"]


def build_model(model: ModelName, normalization: Normalization, *, seed: int) -> nn.Module:
    """The network, in float32 and channels-last on the CPU: images (N, 3, 32, 32) to logits (N, 10).

    Each weight is a function of (seed, its name, its shape), so two normalizations with one seed start with the same
    convolutions and the same classifier. torch's global random numbers are neither used nor changed.
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
    """Convolutions after He et al. 2015 (arXiv 1502.01852), normal with deviation √(2 / fan_out) as in fb.resnet.torch,
    which Wu & He 2018 trained with; the classifier uniform in ±1/√fan_in; biases 0; a residual block starts as the
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
