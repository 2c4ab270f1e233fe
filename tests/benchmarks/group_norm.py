"""The speed of gn.group_norm, compared with torch's and with a copy of the bytes that it must move.

    python tests/benchmarks/group_norm.py [--device cpu|cuda] [--network resnet18|resnet20] [--batch 2 32 128]
        [--rounds 9] [--threads 2] [--without-compile] [--captured] [--json group_norm.json]

Every implementation runs once per round, in an order that rotates, so that a slow period affects all of them alike. The
table shows medians over the rounds, of the forward pass and of forward and backward together. With one thread it
measures CPU time instead of wall time, so that other work on the machine matters less. On a GPU the kernels of small
tensors take less time than the host needs to launch them; with --captured a CUDA graph is replayed, as in a training.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

import gn
from gn.cpu import extension
from worker.training.graphs import capture

SHAPES = {
    "resnet18": (32, ((64, 32), (128, 16), (256, 8), (512, 4))),
    "resnet20": (8, ((16, 32), (32, 16), (64, 8))),
}
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OPERATIONS = ("GN", "GN+ReLU", "GN+add+ReLU")
# What forward and backward must read and write: x, y; x, dy, dx. With a residual: x, r, y; x, dy, y, dx, dr.
TENSORS_MOVED = {"GN": 5, "GN+ReLU": 5, "GN+add+ReLU": 8}


@dataclass(frozen=True)
class Case:
    """The inputs that all implementations share."""

    num_groups: int
    x: Tensor
    residual: Tensor
    dy: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def make(cls, shape: tuple[int, ...], num_groups: int, memory_format: str, dtype: str, device: str) -> "Case":
        def tensor() -> Tensor:
            drawn = torch.randn(shape, device=device).to(DTYPES[dtype])
            return drawn.contiguous(memory_format=FORMATS[memory_format])

        # torch's CUDA kernels take no float32 parameters with half input.
        of: Any = {
            "device": device,
            "dtype": DTYPES[dtype] if device == "cuda" else torch.float32,
            "requires_grad": True,
        }
        weight, bias = torch.ones(shape[1], **of), torch.zeros(shape[1], **of)
        return cls(num_groups, tensor().requires_grad_(), tensor().requires_grad_(), tensor(), weight, bias)

    def ours(self, operation: str) -> Tensor:
        residual = self.residual if "add" in operation else None
        activation: Literal["relu"] | None = "relu" if "ReLU" in operation else None
        return gn.group_norm(self.x, self.num_groups, self.weight, self.bias, residual=residual, activation=activation)

    def torch(self, operation: str) -> Tensor:
        y = F.group_norm(self.x, self.num_groups, self.weight, self.bias)
        if "add" in operation:
            y = y + self.residual
        return F.relu(y) if "ReLU" in operation else y

    def liger(self, operation: str) -> Tensor:
        from liger_kernel.ops.group_norm import LigerGroupNormFunction

        # Right for (N, C, L) only.
        n, c = self.x.shape[:2]
        y = LigerGroupNormFunction.apply(
            self.x.reshape(n, c, -1), c, self.num_groups, self.weight, self.bias, 1e-5
        ).reshape(self.x.shape)
        return F.relu(y) if "ReLU" in operation else y

    def batch_norm(self) -> Tensor:
        return F.relu(F.batch_norm(self.x, None, None, self.weight, self.bias, training=True))

    def relu(self) -> Tensor:
        return F.relu(self.x)

    def forget(self) -> None:
        for leaf in (self.x, self.residual, self.weight, self.bias):
            leaf.grad = None


@dataclass(frozen=True)
class Row:
    """Medians, in microseconds; `copy` moves as many bytes as forward and backward must."""

    batch: int
    channels: int
    size: int
    memory_format: str
    dtype: str
    operation: str
    implementation: str
    forward: float
    both: float
    copy: float


def implementations(case: Case, operation: str, device: str, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    found: dict[str, Callable[[], Tensor]] = {
        "gn": partial(case.ours, operation),
        "torch": partial(case.torch, operation),
    }
    if compiled:
        found["torch.compile"] = torch.compile(partial(case.torch, operation), fullgraph=True, dynamic=False)
    if device == "cuda" and find_spec("liger_kernel") and operation != "GN+add+ReLU":
        found["liger"] = partial(case.liger, operation)
    if operation == "GN+ReLU":
        found |= {"BatchNorm+ReLU": case.batch_norm, "ReLU alone": case.relu}
    return found


def repeated(run: Callable[[], object], repeats: int, captured: bool) -> Callable[[], object]:
    """A function that runs `run` a number of times, by a single CUDA graph if `captured`."""

    def loop() -> None:
        for _ in range(repeats):
            run()

    return capture(loop, run, torch.device("cuda")).replay if captured else loop


def seconds(run: Callable[[], object], device: str) -> float:
    clock = time.perf_counter if torch.get_num_threads() > 1 or device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    begin = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def measure(case: Case, operation: str, arguments: argparse.Namespace) -> dict[str, tuple[float, float, float]]:
    """The medians of forward, of both passes and of the copy, in seconds, of every implementation."""

    def forward(run: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            run()

    def both(run: Callable[[], Tensor]) -> None:
        run().backward(case.dy)
        case.forget()

    runs = implementations(case, operation, arguments.device, not arguments.without_compile)
    source = torch.empty(TENSORS_MOVED[operation] * case.x.nbytes // 2, dtype=torch.uint8, device=arguments.device)
    target = torch.empty_like(source)
    for run in runs.values():
        both(run)
    repeats = max(1, int(0.02 / seconds(partial(both, runs["gn"]), arguments.device)))
    repeats = min(repeats, 200)
    many = partial(repeated, repeats=repeats, captured=arguments.captured)
    copy = many(partial(target.copy_, source))
    passes = {name: (many(partial(forward, run)), many(partial(both, run))) for name, run in runs.items()}
    times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
    for round_ in range(arguments.rounds):
        names = list(runs)
        copied = seconds(copy, arguments.device)
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            one, two = (seconds(pass_, arguments.device) for pass_ in passes[name])
            times[name].append((one / repeats, two / repeats, copied / repeats))
    return {name: tuple(map(statistics.median, zip(*found, strict=True))) for name, found in times.items()}


def hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    model = platform.processor()
    with_name = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{with_name[0].split(': ')[1] if with_name else model}, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--network", choices=SHAPES, default="resnet18")
    parser.add_argument("--batch", type=int, nargs="+")
    parser.add_argument("--format", choices=FORMATS, nargs="+", default=list(FORMATS))
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--operation", choices=OPERATIONS, nargs="+", default=list(OPERATIONS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--without-compile", action="store_true", help="leave out torch.compile, the slowest part")
    parser.add_argument("--captured", action="store_true", help="on a GPU, replay CUDA graphs")
    parser.add_argument("--json", type=Path, default=Path("group_norm.json"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if arguments.captured and arguments.device != "cuda":
        parser.error("--captured needs --device cuda")
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cpu":
        extension.build()  # otherwise a compiler would run in the background of the measurement
    batches = arguments.batch or ((2, 32, 128, 512) if arguments.device == "cuda" else (2, 32, 128))

    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{hardware(arguments.device)}; {versions}; medians of {arguments.rounds} rounds, µs")
    print(f"{'shape':>18} {'format':>13} {'dtype':>8} {'operation':>11} {'implementation':>14} {'forward':>9}"
          f" {'both':>9} {'÷ gn':>6} {'÷ copy':>6}")  # fmt: skip
    rows: list[Row] = []
    num_groups, stages = SHAPES[arguments.network]
    for batch, (channels, size), memory_format, dtype, operation in itertools.product(
        batches, stages, arguments.format, arguments.dtype, arguments.operation
    ):
        torch._dynamo.reset()
        case = Case.make((batch, channels, size, size), num_groups, memory_format, dtype, arguments.device)
        measured = measure(case, operation, arguments)
        for name, times in measured.items():
            forward, both, copy = (1e6 * each for each in times)
            row = Row(batch, channels, size, memory_format, dtype, operation, name, forward, both, copy)
            rows.append(row)
            shape = f"{batch}×{channels}×{size}×{size}"
            ratios = f"{both / 1e6 / measured['gn'][1]:6.2f} {both / copy:6.2f}"
            print(f"{shape:>18} {memory_format:>13} {dtype:>8} {operation:>11} {name:>14} {forward:9.0f} {both:9.0f}"
                  f" {ratios}", flush=True)  # fmt: skip
    conditions = {
        "hardware": hardware(arguments.device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rounds": arguments.rounds,
        "captured": arguments.captured,
        "environment": {
            name: value for name, value in os.environ.items() if name.startswith(("MALLOC", "THP_", "OMP"))
        },
    }
    arguments.json.write_text(json.dumps({"conditions": conditions, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
