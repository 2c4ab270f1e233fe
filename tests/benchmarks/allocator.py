"""The effect of the memory allocator on a training step on the CPU: glibc's malloc in two configurations, and jemalloc.

    python tests/benchmarks/allocator.py [--rounds 5] [--steps 12] [--threads 2]

The allocators are glibc's malloc with its defaults, glibc's malloc as a worker configures it (freed memory is kept),
and jemalloc, which is skipped if its library (Debian: libjemalloc2) is not installed. Each round runs every allocator
once, in a separate process. The table shows medians over the rounds of the median step, and ratios to glibc's defaults.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

from worker.process.training_process import MALLOC_ENVIRONMENT

CASES: tuple[tuple[Literal["resnet20", "resnet18"], int], ...] = (("resnet20", 8), ("resnet20", 128), ("resnet18", 32))


def measure(steps: int, threads: int) -> None:
    """Run in the child process: print the median seconds of a step of each case, and of a copy of 33 MB."""
    import torch
    from torch.nn import functional as F

    from worker.models import build_model
    from worker.normalizations.group import GroupNormalization

    torch.set_num_threads(threads)
    results = {}
    activation = torch.zeros(32, 64, 64, 64)
    results["copy of 33 MB"] = statistics.median(timed(activation.clone) for _ in range(4 * steps))
    for model_name, batch_size in CASES:
        model = build_model(model_name, GroupNormalization(), seed=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))

        def step() -> None:
            loss = F.cross_entropy(model(images), labels)  # noqa: B023 - called before the next turn
            optimizer.zero_grad(set_to_none=True)  # noqa: B023
            loss.backward()
            optimizer.step()  # noqa: B023

        step()
        results[f"{model_name}, batch {batch_size}"] = statistics.median(timed(step) for _ in range(steps))
    print(json.dumps(results))


def timed(call: object) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - started


def main() -> None:
    """Measure all allocators in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        # A worker does not train in the main thread either, and malloc gives other threads other arenas.
        thread = threading.Thread(target=measure, args=(arguments.steps, arguments.threads))
        thread.start()
        thread.join()
        return
    allocators = {"glibc": {}, "glibc, keeping": MALLOC_ENVIRONMENT}
    if jemalloc := next(iter(sorted(Path("/usr/lib").glob("*/libjemalloc.so.2"))), None):
        allocators["jemalloc"] = {"LD_PRELOAD": str(jemalloc)}
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in allocators}
    command = [sys.executable, __file__, "--child", f"--steps={arguments.steps}", f"--threads={arguments.threads}"]
    for _ in range(arguments.rounds):
        for name, environment in allocators.items():
            output = subprocess.run(command, env=os.environ | environment, check=True, stdout=subprocess.PIPE).stdout
            for case, value in json.loads(output).items():
                seconds[name].setdefault(case, []).append(value)
    print(f"{platform.machine()}, {arguments.threads} threads, {arguments.rounds} rounds of {arguments.steps} steps")
    for case in seconds["glibc"]:
        base = statistics.median(seconds["glibc"][case])
        cells = [
            f"{name} {1000 * (value := statistics.median(measured[case])):.1f} ms ({value / base:.2f})"
            for name, measured in seconds.items()
        ]
        print(f"{case:20} " + "   ".join(cells))


if __name__ == "__main__":
    main()
