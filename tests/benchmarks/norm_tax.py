"""The cost of a normalization in a training step: the time with it ÷ the time of the same network without any.

    python tests/benchmarks/norm_tax.py [--device cpu|cuda] [--model resnet20 resnet18] [--batch 128 8 2]
        [--rounds 7] [--threads 2] [--captured]

Six networks differ only in their normalization: none; gn's GroupNorm; the same without `return_skip`, so that autograd
adds the gradients of outputs used twice; GroupNorm computed by torch; gn's BatchNorm; and BatchNorm computed by torch.
Each round runs all of them, in an order that changes; the table shows medians over the rounds. With one thread it
measures CPU time instead of wall time, so that other work on the machine matters less. The allocator and the optimizer
are those of a training worker. With --captured a step is a replayed CUDA graph, as in a training on a GPU.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gn
from gn.cpu import extension
from worker.architecture import ModelName
from worker.models import build_model
from worker.normalizations.batch import BatchNormalization
from worker.normalizations.group import GroupNormalization
from worker.normalizations.none import NoNormalization
from worker.process.training_process import MALLOC_ENVIRONMENT
from worker.training.graphs import capture

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TorchGroupNorm(nn.GroupNorm):
    """gn's layer, computed by torch's operations."""

    def __init__(self, ours: gn.GroupNorm) -> None:
        super().__init__(ours.num_groups, ours.num_channels, ours.eps, ours.affine)
        self.activation = ours.activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(input)
        if residual is not None:
            y = y + residual
        return F.relu(y, inplace=True) if self.activation else y


class TorchBatchNorm(nn.BatchNorm2d):
    """gn's layer, computed by torch's operations."""

    def __init__(self, ours: gn.BatchNorm2d) -> None:
        super().__init__(ours.num_features, ours.eps, ours.momentum, ours.affine)
        self.activation = ours.activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        y = super().forward(input)
        if residual is not None:
            y = y.add_(residual)
        return F.relu(y, inplace=True) if self.activation else y


class WithoutSkip(nn.Module):
    """gn's layer, wrapped so that the model does not recognize it and uses a single output twice."""

    def __init__(self, ours: gn.GroupNorm) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        y: Tensor = self.ours(input, residual)
        return y


def replaced(network: nn.Module, replacement: Callable[[Any], nn.Module]) -> nn.Module:
    for name, module in list(network.named_modules()):
        if isinstance(module, gn.GroupNorm | gn.BatchNorm2d):
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, replacement(module))
    return network


NORMALIZED = ("group", "group without skip", "group by torch", "batch", "batch by torch")


def networks(model: ModelName) -> dict[str, nn.Module]:
    group, batch = GroupNormalization(), BatchNormalization()
    return {
        "none": build_model(model, NoNormalization(), seed=0),
        "group": build_model(model, group, seed=0),
        "group without skip": replaced(build_model(model, group, seed=0), WithoutSkip),
        "group by torch": replaced(build_model(model, group, seed=0), TorchGroupNorm),
        "batch": build_model(model, batch, seed=0),
        "batch by torch": replaced(build_model(model, batch, seed=0), TorchBatchNorm),
    }


def step(
    network: nn.Module, batch: int, memory_format: str, dtype: str, device: str, captured: bool
) -> Callable[[], None]:
    network = network.to(device).to(memory_format=FORMATS[memory_format])  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, fused=True)
    images = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=FORMATS[memory_format])
    labels = torch.randint(10, (batch,), device=device)

    def run() -> None:
        with torch.autocast(device, DTYPES[dtype], enabled=dtype != "float32"):
            loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    if not captured:
        return run
    graph = capture(run, run, torch.device(device))

    def replay(_kept: object = run) -> None:  # the graph reads the tensors of `run`, but does not keep them
        graph.replay()

    return replay


def measure(steps: dict[str, Callable[[], None]], rounds: int, repeats: int, device: str) -> dict[str, float]:
    clock = time.perf_counter if torch.get_num_threads() > 1 or device == "cuda" else time.process_time
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for run in steps.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in steps}
    orders = itertools.cycle(itertools.permutations(steps))
    for _ in range(rounds):
        for name in next(orders):
            wait()
            begin = clock()
            for _ in range(repeats):
                steps[name]()
            wait()
            times[name].append((clock() - begin) / repeats)
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", nargs="+", default=["resnet20", "resnet18"])
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 8, 2])
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=list(FORMATS))
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="steps per round")
    parser.add_argument("--captured", action="store_true", help="on a GPU, replay CUDA graphs")
    parser.add_argument("--json", type=Path, default=Path("norm_tax.json"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if arguments.captured and arguments.device != "cuda":
        parser.error("--captured needs --device cuda")
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cpu":
        extension.build()  # otherwise a compiler would run in the background of the measurement

    hardware = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{hardware}; torch {torch.__version__}; Python {platform.python_version()}; "
          f"medians of {arguments.rounds} rounds of {arguments.steps} steps, ms")  # fmt: skip
    print(f"{'model':>9} {'batch':>5} {'format':>13} {'dtype':>8} {'none, ms':>9}"
          + "".join(f"{name:>20}" for name in NORMALIZED))  # fmt: skip
    rows = []
    for model, batch, memory_format, dtype in itertools.product(
        arguments.model, arguments.batch, arguments.format, arguments.dtype
    ):
        steps = {
            name: step(network, batch, memory_format, dtype, arguments.device, arguments.captured)
            for name, network in networks(model).items()
        }
        found = measure(steps, arguments.rounds, arguments.steps, arguments.device)
        ratios = {name: found[name] / found["none"] for name in NORMALIZED}
        setting = {"model": model, "batch": batch, "format": memory_format, "dtype": dtype}
        rows.append({**setting, "ms": found, "ratios": ratios})
        print(f"{model:>9} {batch:>5} {memory_format:>13} {dtype:>8} {found['none']:9.2f}"
              + "".join(f"{ratio:20.3f}" for ratio in ratios.values()), flush=True)  # fmt: skip
    for model, batch in itertools.product(arguments.model, arguments.batch):
        alike = [row for row in rows if (row["model"], row["batch"]) == (model, batch)]
        best = {name: min(row["ms"][name] for row in alike) for name in ("none", *NORMALIZED)}
        listed = ", ".join(f"{name} {best[name] / best['none']:.3f}" for name in NORMALIZED)
        print(f"{model} at batch {batch}, the best layout and dtype of each ÷ that without normalization: {listed}")
    arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    if not os.environ.items() >= MALLOC_ENVIRONMENT.items():
        # glibc reads them when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC_ENVIRONMENT)
    main()
