"""Images/s of a study, with one job on each core, against a plain PyTorch loop that has all cores.

    python tests/benchmarks/training_throughput.py [--batch 2 8 32 128] [--normalization group batch none]
                                                   [--rounds 3] [--seconds 2] [--bfloat16]

Both train resnet20 on the synthetic dataset with random crops and mirroring. The study runs `worker.training.loop` in
a process for each core, on one thread, with the allocator of a training worker. The loop is the usual one: a
`DataLoader` that prepares whole batches in a process of its own, the layers of torch.nn, a fused SGD, no loss read in
between. Contenders take turns within a round, in an order that alternates. The table shows medians over the rounds, and
the ratio of the study to the loop, both in float32. With `--bfloat16`, which pays where the CPU has AVX512-BF16 or AMX,
it also shows the study in bfloat16, and its ratio to the loop in float32 and to the loop in bfloat16 (autocast) with
channels_last.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import gn
from gn.cpu import extension
from worker.data import datasets
from worker.data.batches import CHANNEL_STATISTICS, crop_and_mirror
from worker.models import build_model
from worker.normalizations.layers import BatchNorm
from worker.process.training_process import MALLOC_ENVIRONMENT
from worker.spec import TrainingSpec
from worker.training.loop import train

CORES = len(os.sched_getaffinity(0))
WARM_UP_STEPS = 2
Cell = dict[str, Any]


def spec_of(cell: Cell) -> TrainingSpec:
    return TrainingSpec.model_validate(
        {
            "normalization": {"type": cell["normalization"]},
            "batch_size": cell["batch"],
            "precision": cell["precision"],
            "dataset": {"name": "synthetic"},
            "epochs": 100,
        }
    )


class Clock:
    """Counts steps after the first few, until the seconds are over."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps, self.began = seconds, -WARM_UP_STEPS, 0.0

    def is_over(self) -> bool:
        """Call it before every step."""
        now = time.perf_counter()
        self.steps += 1
        if self.steps <= 0:
            self.began = now
        self.elapsed = now - self.began
        return self.steps > 1 and self.elapsed >= self.seconds

    def images_per_s(self, batch: int) -> float:
        return self.steps * batch / self.elapsed


def job(cell: Cell) -> float:
    """Return the images/s of one job of the study."""
    clock = Clock(cell["seconds"])
    control: Callable[[], Any] = lambda: "cancel" if clock.is_over() else None  # noqa: E731
    finished = train(spec_of(cell), synthetic(), report=lambda _: None, save=lambda *_: None, control=control)
    assert finished.outcome == "cancelled", finished
    return clock.images_per_s(cell["batch"])


class Plain(nn.Module):
    """A normalization of torch.nn, followed by the sum with a residual and the activation."""

    def __init__(self, normalization: nn.Module, activation: str | None) -> None:
        super().__init__()
        self.normalization, self.activation = normalization, activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = self.normalization(x)
        if residual is not None:
            x = x + residual
        return F.relu(x, inplace=True) if self.activation else x


def plain_network(cell: Cell) -> nn.Module:
    network = build_model("resnet20", spec_of(cell).normalization, seed=0)
    for name, module in list(network.named_modules()):
        layer: nn.Module
        match module:
            case gn.GroupNorm():
                layer = nn.GroupNorm(module.num_groups, module.num_channels, module.eps)
            case BatchNorm():
                layer = nn.BatchNorm2d(module.num_features, module.eps, module.momentum)
            case _:
                continue
        parent, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, Plain(layer, module.activation))
    return network.to(memory_format=torch.channels_last if cell["channels_last"] else torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


class Images(Dataset[tuple[Tensor, Tensor]]):
    """The training images; a whole batch is augmented at once."""

    def __init__(self) -> None:
        dataset = synthetic()
        self.images, self.labels = torch.tensor(dataset.train_images), torch.tensor(dataset.train_labels)
        mean, deviation = CHANNEL_STATISTICS["synthetic"]
        self.mean, self.deviation = torch.tensor(mean).view(3, 1, 1), torch.tensor(deviation).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, index: list[int]) -> tuple[Tensor, Tensor]:
        chosen, count = torch.tensor(index), len(index)
        images = crop_and_mirror(self.images[chosen], torch.randint(9, (2, count)), torch.rand(count) < 0.5)
        return (images.float() / 255 - self.mean) / self.deviation, self.labels[chosen]


def whole_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return what `Images.__getitems__` returns."""
    images, labels = batch
    return images, labels


def loop(cell: Cell) -> float:
    """Return the images/s of the plain loop."""
    network = plain_network(cell).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    loader = DataLoader(
        images(),
        cell["batch"],
        shuffle=True,
        drop_last=True,
        num_workers=1,
        collate_fn=whole_batch,
        multiprocessing_context="fork",
        persistent_workers=True,
    )
    batches: Iterator[tuple[Tensor, Tensor]] = itertools.chain.from_iterable(itertools.repeat(loader))
    memory_format = torch.channels_last if cell["channels_last"] else torch.contiguous_format
    clock, total = Clock(cell["seconds"]), torch.zeros(())
    while not clock.is_over():
        batch, labels = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=cell["precision"] == "bfloat16"):
            loss = F.cross_entropy(network(batch.contiguous(memory_format=memory_format)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return clock.images_per_s(cell["batch"])


images, synthetic = cache(Images), cache(datasets.synthetic)
"""Made once in a process."""


def serve(connection: Connection, threads: int) -> None:
    torch.set_num_threads(threads)
    while (asked := connection.recv()) is not None:
        function, cell = asked
        connection.send(function(cell))


class Team:
    """Processes that measure at the same time."""

    def __init__(self, size: int, threads: int, environment: dict[str, str]) -> None:
        os.environ.update(environment)  # glibc reads it when a process starts
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(size)]
        self.members = [context.Process(target=serve, args=(far, threads)) for _, far in pairs]
        self.connections = [near for near, _ in pairs]
        for member in self.members:
            member.start()
        for name in environment:
            del os.environ[name]

    def measure(self, function: Callable[[Cell], float], cell: Cell) -> float:
        """Return the sum of what the processes measure."""
        for connection in self.connections:
            connection.send((function, cell))
        return float(sum(connection.recv() for connection in self.connections))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection, member in zip(self.connections, self.members, strict=True):
            with suppress(BrokenPipeError):
                connection.send(None)
            member.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--normalization", nargs="+", default=["group", "batch", "none"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement, and at least two steps")
    parser.add_argument("--bfloat16", action="store_true", help="measure both in bfloat16 too")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    extension.build()  # otherwise a compiler would run in the background of the measurement

    print(f"{CORES} cores; torch {torch.__version__}; Python {platform.python_version()}; medians of "
          f"{arguments.rounds} rounds of {arguments.seconds:g} s, images/s")  # fmt: skip
    titles = f"{'batch':>5} {'norm':>6} {'study':>8} {'loop':>8} {'ratio':>6}"
    print(titles + (f" {'study bf16':>11} {'/ loop':>7} {'loop bf16':>10} {'/ loop bf16':>11}" * arguments.bfloat16))
    rows = []
    with Team(CORES, 1, MALLOC_ENVIRONMENT) as study, Team(1, CORES, {}) as plain:
        for batch, normalization in itertools.product(arguments.batch, arguments.normalization):
            cell: Cell = {"batch": batch, "normalization": normalization, "seconds": arguments.seconds}
            float32 = cell | {"precision": "float32", "channels_last": False}
            bfloat16 = cell | {"precision": "bfloat16", "channels_last": True}
            contenders: dict[str, Callable[[], float]] = {
                "study": lambda cell=float32: study.measure(job, cell),  # type: ignore[misc]
                "loop": lambda cell=float32: plain.measure(loop, cell),  # type: ignore[misc]
            }
            if arguments.bfloat16:
                contenders["loop bf16"] = lambda cell=bfloat16: plain.measure(loop, cell)  # type: ignore[misc]
                contenders["study bf16"] = lambda cell=bfloat16: study.measure(job, cell)  # type: ignore[misc]
            found: dict[str, list[float]] = {name: [] for name in contenders}
            for number in range(arguments.rounds):
                for name in list(contenders)[:: -1 if number % 2 else 1]:
                    found[name].append(contenders[name]())
            median = {name: statistics.median(values) for name, values in found.items()}
            rows.append(cell | {"images_per_s": found})
            line = f"{batch:5} {normalization:>6} {median['study']:8.0f} {median['loop']:8.0f}"
            line += f" {median['study'] / median['loop']:6.2f}"
            if arguments.bfloat16:
                half = median["study bf16"]
                line += f" {half:11.0f} {half / median['loop']:7.2f}"
                line += f" {median['loop bf16']:10.0f} {half / median['loop bf16']:11.2f}"
            print(line, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
