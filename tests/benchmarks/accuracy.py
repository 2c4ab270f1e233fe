"""Train jobs of the example study again, and compare their test errors with those of the study.

    python tests/benchmarks/accuracy.py [--normalization group] [--batch-size 2 32] [--seed 0] [--data DIR]

Without options it trains all jobs of `normlab experiment import --example`, one on each core. A job has the bits of the
study where processor and versions are the same; elsewhere its error differs by rounding, which training amplifies to
about the difference of two seeds. CIFAR-10 is downloaded to DIR if it is not there.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from service.experiments.bundle import Bundle
from service.experiments.bundle.lines import JobLine, MetricLine
from service.experiments.example import unpack_example
from worker.spec import TrainingSpec

CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Job:
    """A job of the study, with its test error after the last epoch as a fraction."""

    spec: TrainingSpec
    error: float

    @property
    def name(self) -> str:
        return f"{self.spec.normalization.type}, batch size {self.spec.batch_size}, seed {self.spec.seed}"


def read_study(folder: Path) -> list[Job]:
    """Return the jobs of the example that succeeded."""
    path = folder / "study.tar"
    unpack_example(path)
    with Bundle(path) as bundle:
        metrics = list(bundle.lines("metrics.jsonl", MetricLine))
        errors = {row.job_id: row.values["test_error"] for row in metrics if row.kind == "eval" and not row.superseded}
        jobs = [job for job in bundle.lines("jobs.jsonl", JobLine) if job.status == "succeeded"]
    return [
        Job(TrainingSpec.model_validate(job.spec | {"precision": job.precision}), float(errors[job.id] or 0))
        for job in jobs
    ]


def train(job: Job, data: Path, folder: Path) -> float:
    """Train a job on one thread in a process of its own, and return its test error."""
    path = folder / f"{job.name}.json"
    path.write_text(job.spec.model_dump_json())
    command = [sys.executable, "-m", "worker", str(path), "--threads=1", "--device=cpu", f"--data-dir={data}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{job.name}: {(done.stdout.splitlines() or [done.stderr])[-1]}")
    evaluations = [event for line in done.stdout.splitlines() if (event := json.loads(line)).get("kind") == "eval"]
    return float(evaluations[-1]["values"]["test_error"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normalization", nargs="*", default=[])
    parser.add_argument("--batch-size", nargs="*", type=int, default=[])
    parser.add_argument("--seed", nargs="*", type=int, default=[])
    parser.add_argument("--data", type=Path, default=os.environ.get("NORMLAB_DATA_DIR", "~/.cache/normlab/data"))
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        jobs = [
            job
            for job in read_study(Path(scratch))
            if job.spec.normalization.type in (chosen.normalization or [job.spec.normalization.type])
            and job.spec.batch_size in (chosen.batch_size or [job.spec.batch_size])
            and job.spec.seed in (chosen.seed or [job.spec.seed])
        ]
        if not jobs:
            sys.exit("no job of the study has these values")
        print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {len(jobs)} jobs")
        print("test error in the study, here, difference in points")
        with ThreadPoolExecutor(CORES) as pool:
            for job, error in zip(
                jobs, pool.map(lambda job: train(job, chosen.data, Path(scratch)), jobs), strict=True
            ):
                difference = 100 * (error - job.error)
                print(f"{100 * job.error:6.2f} % {100 * error:6.2f} % {difference:+6.2f}  {job.name}", flush=True)


if __name__ == "__main__":
    main()
