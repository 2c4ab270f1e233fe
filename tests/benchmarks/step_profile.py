"""The shares of a training step on one CPU core: convolutions, normalization, and everything else.

    python tests/benchmarks/step_profile.py [--batch 2 8 32] [--normalization group batch none] [--steps 32]

It runs the static step of resnet20 under torch's profiler, and adds the time of each operator, without that of the
operators it calls, to its kind. The rest besides convolution and normalization bounds the gain of a faster training
loop.
"""

import argparse
import collections
import os
import platform
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from gn.cpu import extension
from worker.numerics.precision import choose_precision
from worker.process.training_process import MALLOC_ENVIRONMENT
from worker.spec import TrainingSpec
from worker.training.static_step import StaticStep

KINDS = {
    "convolution": ("convolution",),
    "normalization": ("gn::", "batch_norm"),
    "copies and allocation": ("copy", "aten::to", "empty", "resize", "as_strided", "clone", "slice"),
    "optimizer": ("_fused_",),
}


def kind_of(operator: str) -> str:
    lowered = operator.lower()
    return next((kind for kind, names in KINDS.items() if any(name in lowered for name in names)), "everything else")


def shares(spec: TrainingSpec, steps: int) -> dict[str, float]:
    """Return the share of each kind in the time of a step."""
    step = StaticStep(spec, torch.device("cpu"), choose_precision(spec, torch.device("cpu")))
    count = spec.batch_size
    batches = [(torch.randn(count, 3, 32, 32), torch.randint(10, (count,))) for _ in range(step.num_slots)]

    def run(chunks: int) -> None:
        for _ in range(chunks):
            step.fill(batches, [0.01] * len(batches))
            for _ in batches:
                step.run()

    run(2)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run(max(1, steps // len(batches)))
    times: dict[str, float] = collections.defaultdict(float)
    for average in profiled.key_averages():
        times[kind_of(average.key)] += average.self_cpu_time_total
    return {kind: time / sum(times.values()) for kind, time in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--normalization", nargs="+", default=["group", "batch", "none"])
    parser.add_argument("--steps", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    extension.build()  # otherwise a compiler would run in the background of the measurement

    columns = (*KINDS, "everything else")
    print(f"1 thread, float32; torch {torch.__version__}; Python {platform.python_version()}; % of a step")
    print(f"{'batch':>5} {'norm':>6}" + "".join(f"{column:>23}" for column in columns))
    for batch in arguments.batch:
        for normalization in arguments.normalization:
            fields = {"normalization": {"type": normalization}, "batch_size": batch, "precision": "float32"}
            found = shares(TrainingSpec.model_validate(fields | {"dataset": {"name": "synthetic"}}), arguments.steps)
            values = "".join(f"{100 * found.get(column, 0):23.0f}" for column in columns)
            print(f"{batch:5} {normalization:>6}{values}", flush=True)


if __name__ == "__main__":
    if not os.environ.items() >= MALLOC_ENVIRONMENT.items():
        # glibc reads them when a process starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | MALLOC_ENVIRONMENT)
    main()
