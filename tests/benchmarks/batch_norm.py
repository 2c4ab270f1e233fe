"""The speed of gn.batch_norm in training, compared with torch's and with gn.group_norm on the same tensors.

    python tests/benchmarks/batch_norm.py [--network resnet20|resnet18] [--batch 2 128] [--rounds 9] [--threads 1]

Every implementation runs once per round, in an order that rotates, so that a slow period affects all of them alike. The
table shows medians over the rounds of forward and backward together. With one thread it measures CPU time instead of
wall time, so that other work on the machine matters less.

`traffic` is a lower bound for tensors larger than the caches: the time in which `Tensor.copy_` reads and writes as many
tensors as batch normalization must. No output can be computed before a first pass over all samples: the forward pass
reads x twice, the backward pass reads x and the gradient of y twice.
"""

import argparse
import itertools
import json
import platform
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import gn
from gn.cpu import extension
from tests.benchmarks.group_norm import DTYPES, FORMATS, SHAPES, Case, hardware, repeated, seconds

# The tensors that the two passes read and write. With a residual, the forward pass also reads it, and the backward pass
# also reads y, for the gradient of the ReLU, and writes the gradient of the residual.
OPERATIONS = {"BN+ReLU": 8, "BN+add+ReLU": 11}
IMPLEMENTATIONS = ("gn", "torch", "gn.group_norm")


def implementations(case: Case, residual: Tensor | None) -> dict[str, Callable[[], Tensor]]:
    averages = torch.zeros(case.x.shape[1]), torch.ones(case.x.shape[1])

    def ours() -> Tensor:
        return gn.batch_norm(case.x, *averages, case.weight, case.bias, True, residual=residual, activation="relu")

    def of_torch() -> Tensor:
        y = F.batch_norm(case.x, *averages, case.weight, case.bias, training=True)
        if residual is not None:
            y = y.add_(residual)
        return F.relu(y, inplace=True)

    group = partial(case.ours, "GN+ReLU" if residual is None else "GN+add+ReLU")
    return dict(zip(IMPLEMENTATIONS, (ours, of_torch, group), strict=True))


def measure(case: Case, operation: str, rounds: int) -> dict[str, float]:
    """The medians of both passes of every implementation, in seconds."""
    runs = implementations(case, case.residual if "add" in operation else None)

    def both(run: Callable[[], Tensor]) -> None:
        run().backward(case.dy)
        case.forget()

    timed: dict[str, Callable[[], object]] = {name: partial(both, run) for name, run in runs.items()}
    timed["copy"] = partial(torch.empty_like(case.x).copy_, case.x.detach())
    for run in timed.values():
        run()
    repeats = min(200, max(1, int(0.02 / seconds(timed["gn"], "cpu"))))
    many = {name: repeated(run, repeats, captured=False) for name, run in timed.items()}
    times: dict[str, list[float]] = {name: [] for name in timed}
    orders = itertools.cycle(itertools.permutations(timed))
    for _ in range(rounds):
        for name in next(orders):
            times[name].append(seconds(many[name], "cpu") / repeats)
    found = {name: statistics.median(times[name]) for name in timed}
    return {**found, "traffic": OPERATIONS[operation] / 2 * found.pop("copy")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=SHAPES, default="resnet20")
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 128])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, default=Path("batch_norm.json"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    extension.build()  # otherwise a compiler would run in the background of the measurement

    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{hardware('cpu')}; {versions}; medians of {arguments.rounds} rounds, µs")
    print(f"{'shape':>18} {'format':>13} {'dtype':>8} {'operation':>11}"
          + "".join(f"{name:>14}" for name in IMPLEMENTATIONS)
          + f"{'traffic':>9}{'torch ÷ gn':>12}{'gn ÷ traffic':>14}")  # fmt: skip
    rows = []
    num_groups, stages = SHAPES[arguments.network]
    for batch, (channels, size), memory_format, dtype, operation in itertools.product(
        arguments.batch, stages, FORMATS, DTYPES, OPERATIONS
    ):
        shape = (batch, channels, size, size)
        case = Case.make(shape, num_groups, memory_format, dtype, "cpu")
        found = measure(case, operation, arguments.rounds)
        rows.append({"shape": shape, "format": memory_format, "dtype": dtype, "operation": operation, "s": found})
        print(f"{'×'.join(map(str, shape)):>18} {memory_format:>13} {dtype:>8} {operation:>11}"
              + "".join(f"{1e6 * found[name]:14.0f}" for name in IMPLEMENTATIONS)
              + f"{1e6 * found['traffic']:9.0f}{found['torch'] / found['gn']:12.2f}"
              + f"{found['gn'] / found['traffic']:14.2f}", flush=True)  # fmt: skip
    arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
