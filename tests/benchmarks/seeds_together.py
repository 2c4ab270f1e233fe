"""What is gained by training several seeds as one network with grouped convolutions, on one CPU core.

    python tests/benchmarks/seeds_together.py [--batch 2 4 8 32] [--seeds 2 4 8] [--rounds 7] [--dtype float32]

A stack of B networks has B times the channels: convolutions of B groups, GroupNorm of B times the groups, and a
classifier for each network. Each network has batches of its own, and the sum of the losses gives each of them the
gradient that it has alone, apart from rounding. The table shows how many steps of single networks the stack does in the
time of one: B × the time of a step alone ÷ the time of a step of the stack. The CPU time of one thread is measured, as
the medians of rounds in which all take turns. Both have the fused SGD of torch, and the allocator of a training worker.
"""

import argparse
import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gn
from gn.cpu import extension
from worker.models import build_model
from worker.models.resnet import ResidualBlock, ResNet
from worker.normalizations.group import GroupNormalization
from worker.process.training_process import MALLOC_ENVIRONMENT

Step = Callable[[], None]


class StackedBlock(ResidualBlock):
    """A block whose padding shortcut adds the new channels to each network."""

    networks = 1

    def join(self, x: Tensor) -> Tensor:
        if not self.new_channels:
            return x
        each = x[:, :, :: self.stride, :: self.stride].unflatten(1, (self.networks, -1))
        before = self.new_channels // 2
        padding = (0, 0, 0, 0, before, self.new_channels - before)
        return F.pad(each, padding).flatten(1, 2)


class StackedClassifier(nn.Module):
    """The classifiers of all networks."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, B, 10) of features (N, B * C)."""
        each = features.unflatten(1, (len(self.weight), -1))
        return torch.einsum("nbc,bkc->nbk", each, self.weight) + self.bias


def alone(seed: int) -> ResNet:
    network = build_model("resnet20", GroupNormalization(), seed=seed)
    assert isinstance(network, ResNet)
    return network


def together(networks: int) -> nn.Module:
    """Return the stack of the networks of seeds 0, 1, ..."""
    each = [alone(seed) for seed in range(networks)]
    stack = alone(0)
    for name, module in list(stack.named_modules()):
        parts = [network.get_submodule(name) for network in each]
        replacement: nn.Module
        if isinstance(module, ResidualBlock):
            module.__class__ = StackedBlock
            module.networks = networks  # type: ignore[assignment]
            continue
        if isinstance(module, nn.Conv2d):
            replacement = nn.Conv2d(
                module.in_channels * networks,
                module.out_channels * networks,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                groups=networks,
                bias=False,
            )
            with torch.no_grad():
                replacement.weight.copy_(torch.cat([part.weight for part in parts]))  # type: ignore[misc]
        elif isinstance(module, gn.GroupNorm):
            channels, activation = module.num_channels * networks, module.activation
            replacement = gn.GroupNorm(module.num_groups * networks, channels, activation=activation)
            with torch.no_grad():
                replacement.weight.copy_(torch.cat([part.weight for part in parts]))  # type: ignore[misc]
        elif isinstance(module, nn.Linear):
            replacement = StackedClassifier(parts)  # type: ignore[arg-type]
        else:
            continue
        parent, _, attribute = name.rpartition(".")
        setattr(stack.get_submodule(parent), attribute, replacement)
    return stack


def step(network: nn.Module, networks: int, batch: int, dtype: torch.dtype) -> Step:
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, fused=True)
    images = torch.randn(batch, 3 * networks, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch * networks,))

    def run() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits = network(images)
            loss = F.cross_entropy(logits.reshape(-1, 10), labels, reduction="sum") / batch
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def check() -> None:
    """Raise unless a stack of two networks computes the logits of both."""
    images = torch.randn(2, 2, 3, 32, 32)
    expected = torch.stack([alone(seed)(images[:, seed]) for seed in range(2)], 1)
    torch.testing.assert_close(together(2)(images.flatten(1, 2)), expected, rtol=1e-4, atol=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 4, 8, 32])
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    extension.build()  # otherwise a compiler would run in the background of the measurement
    check()
    print(f"1 thread; torch {torch.__version__}; Python {platform.python_version()}; {arguments.dtype}; "
          f"medians of {arguments.rounds} rounds")  # fmt: skip
    print(f"{'batch':>5}{'alone, ms':>11}" + "".join(f"{f'{number} seeds':>10}" for number in arguments.seeds))
    dtype = getattr(torch, arguments.dtype)
    for batch in arguments.batch:
        steps = {1: step(alone(0), 1, batch, dtype)}
        steps |= {number: step(together(number), number, batch, dtype) for number in arguments.seeds}
        for run in steps.values():
            run(), run()
        repeats = max(1, 32 // batch)
        times: dict[int, list[float]] = {number: [] for number in steps}
        orders = itertools.cycle(itertools.permutations(steps))
        for _ in range(arguments.rounds):
            for number in next(orders):
                began = time.process_time()
                for _ in range(repeats):
                    steps[number]()
                times[number].append((time.process_time() - began) / repeats)
        median = {number: statistics.median(found) for number, found in times.items()}
        gains = [number * median[1] / median[number] for number in arguments.seeds]
        print(f"{batch:>5}{1e3 * median[1]:11.2f}" + "".join(f"{gain:10.2f}" for gain in gains), flush=True)


if __name__ == "__main__":
    if not os.environ.items() >= MALLOC_ENVIRONMENT.items():
        # glibc reads them when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC_ENVIRONMENT)
    main()
