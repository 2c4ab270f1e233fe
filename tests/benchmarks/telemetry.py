"""The cost of telemetry: the CPU time of one measurement, relative to the training steps of an epoch.

    python tests/benchmarks/telemetry.py [--model resnet20] [--batch 8 128] [--normalization group batch]
        [--precision float32] [--images 256] [--epoch 5000 50000] [--rounds 3]

Each round takes the steps of `--images` images and then one measurement, by one thread. The time of a measurement does
not depend on the length of the epoch, so the ratio of an epoch of n images with telemetry to one without is
1 + measurement / (n · time per image). Evaluation is left out, which makes the ratio larger than that of a job. CPU
time is measured instead of wall time, so that other work on the machine matters less. The table shows medians.
"""

import argparse
import itertools
import statistics
import time

import torch

from worker.data import datasets
from worker.data.batches import TrainingData
from worker.numerics.precision import Precision
from worker.spec import TrainingSpec
from worker.training import telemetry
from worker.training.static_step import StaticStep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 128])
    parser.add_argument("--normalization", nargs="+", default=["group", "batch"])
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epoch", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    columns = [f"ratio, {epoch:,} images" for epoch in asked.epoch]
    print(f"| normalization | batch | ms per image | s per measurement | {' | '.join(columns)} |")
    print("| --- | --- | --- | --- | " + " | ".join("---" for _ in columns) + " |")
    for normalization, batch_size in itertools.product(asked.normalization, asked.batch):
        spec = TrainingSpec.model_validate(
            {
                "model": asked.model,
                "normalization": {"type": normalization},
                "batch_size": batch_size,
                "precision": asked.precision,
                "dataset": {"name": "synthetic"},
            }
        )
        per_image, measurement = measured(spec, asked.images, asked.rounds)
        ratios = [
            statistics.median(1 + m / (epoch * p) for p, m in zip(per_image, measurement, strict=True))
            for epoch in asked.epoch
        ]
        cells = [f"{1000 * statistics.median(per_image):.2f}", f"{statistics.median(measurement):.2f}"]
        cells += [f"{ratio:.3f}" for ratio in ratios]
        print(f"| {normalization} | {batch_size} | {' | '.join(cells)} |", flush=True)


def measured(spec: TrainingSpec, images: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the CPU seconds per training image and per measurement of each round, without a first one."""
    precision: Precision = "bfloat16" if spec.precision == "bfloat16" else "float32"
    data = TrainingData(spec, datasets.synthetic())
    step = StaticStep(spec, torch.device("cpu"), precision)
    count = max(1, images // spec.batch_size)
    found: list[tuple[float, float]] = []
    for epoch in range(rounds + 1):
        step.model.train()
        remaining, started = iter(data.epoch_batches(epoch + 1)), time.process_time()
        taken = 0
        while chunk := list(itertools.islice(remaining, min(step.num_slots, count - taken))):
            step.fill(chunk, [0.01] * len(chunk))
            for _ in chunk:
                step.run()
            step.results()
            taken += len(chunk)
        trained = time.process_time()
        telemetry.measure(step, spec, data, 1)
        found.append(((trained - started) / (count * spec.batch_size), time.process_time() - trained))
    return [per_image for per_image, _ in found[1:]], [measurement for _, measurement in found[1:]]


if __name__ == "__main__":
    main()
