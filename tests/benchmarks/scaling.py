"""The throughput of jobs on 1, 2, ... workers, at a fixed batch size per worker.

    python tests/benchmarks/scaling.py [--workers 1 2 ...] [--rounds 5] [--batch-size 32] [--images 2000] [--json FILE]

The jobs run through the whole service, with one CPU per worker; every worker sees the same number of images (weak
scaling). A round trains once with each number of workers, in ascending order in one round and in descending order in
the next, so that a disturbance of the machine affects all of them. Images/s is the median over a job's rows of train
metrics, without the first. Efficiency is images/s on n workers divided by n times those on one, within a round.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.client import Client
from service.local.supervisor import Supervisor
from service.settings import Settings
from worker.spec import DATASET_SIZES

NORMALIZATIONS: dict[str, dict[str, Any]] = {
    "group": {"type": "group", "num_groups": 8},
    "sync_batch": {"type": "sync_batch"},
}


def speed(client: Client, spec: dict[str, Any]) -> float:
    """Return the images/s of a job, summed over its workers."""
    job = client.submit(spec)["id"]
    ended = client.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    return float(statistics.median([row["images_per_s"] for row in client.metrics(job, kind="train")][1:]))


def measure(client: Client, spec: dict[str, Any], workers: Sequence[int], rounds: int) -> list[dict[int, float]]:
    """Return the images/s by number of workers for each round, without the warm-up round."""
    measured = []
    for number in range(rounds + 1):
        found = {}
        for count in workers if number % 2 == 0 else reversed(workers):
            found[count] = speed(client, on_workers(spec, count))
        if number:
            measured.append(found)
            print(spec["normalization"]["type"], found, file=sys.stderr, flush=True)
    return measured


def on_workers(spec: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the job for a number of workers, with the same number of images per worker."""
    dataset = spec["dataset"] | {"train_limit": count * spec["dataset"]["train_limit"]}
    return spec | {"num_workers": count, "dataset": dataset}


def summarize(measured: list[dict[int, float]], count: int) -> dict[str, Any]:
    """Return the medians for one number of workers, with the extremes of the efficiency."""
    efficiencies = [found[count] / (count * found[1]) for found in measured]
    return {
        "workers": count,
        "images_per_s": round(statistics.median(found[count] for found in measured), 1),
        "efficiency": round(statistics.median(efficiencies), 3),
        "lowest": round(min(efficiencies), 3),
        "highest": round(max(efficiencies), 3),
        "n": len(measured),
    }


def main() -> None:
    """Run the rounds, print the table, and write the JSON file."""
    cpus = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=list(range(1, cpus + 1)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=2000, help="images per worker, at most dataset ÷ workers")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    workers = sorted({1, *arguments.workers})
    images = min(arguments.images, DATASET_SIZES["synthetic"][0] // max(workers))
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="nl") as folder:
        settings = Settings(home=Path(folder, "home"), port=0, warm_workers=max(workers))
        with Supervisor(settings) as supervisor, Client(supervisor.url) as client:
            supervisor.wait_ready()
            for name, normalization in NORMALIZATIONS.items():
                spec = {
                    "model": arguments.model,
                    "normalization": normalization,
                    "batch_size": arguments.batch_size,
                    "epochs": 1,
                    "dataset": {"name": "synthetic", "train_limit": images, "test_limit": 100},
                }
                measured = measure(client, spec, workers, arguments.rounds)
                results[name] = [summarize(measured, count) for count in workers]

    print(f"{arguments.model}, batch {arguments.batch_size} per worker, {cpus} cores, {platform.machine()}")
    print(
        "| normalization | workers | images/s | efficiency (lowest to highest) | n |\n| --- | --- | --- | --- | --- |"
    )
    for name, rows in results.items():
        for row in rows:
            spread = f"{row['efficiency']:.3f} ({row['lowest']:.3f} to {row['highest']:.3f})"
            print(f"| {name} | {row['workers']} | {row['images_per_s']} | {spread} | {row['n']} |")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"arguments": vars(arguments) | {"json": None}, "results": results}, indent=2)
        )


if __name__ == "__main__":
    main()
