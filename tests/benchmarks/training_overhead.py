"""The overhead of the service: images/s through the whole service ÷ images/s of the same training in a bare script.

    python tests/benchmarks/training_overhead.py [--rounds 5] [--batch-size 8] [--images 2000]

Both train the same specification on one thread, in turn; the bare script is `python -m worker`. Images/s of a round is
the median over its rows of train metrics, without the first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.client import Client
from service.local.supervisor import Supervisor
from service.settings import Settings
from worker.process.training_process import MALLOC_ENVIRONMENT


def speed(rows: Iterable[dict[str, Any]]) -> float:
    """Return the median images/s of the rows after the first."""
    return float(statistics.median([row["images_per_s"] for row in rows][1:]))


def bare(spec: dict[str, Any], folder: Path) -> float:
    """Return the images/s of `python -m worker`."""
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "worker", str(path), "--threads", "1"]
    environment = os.environ | MALLOC_ENVIRONMENT
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    events = [json.loads(line) for line in output.splitlines()]
    return speed(event["values"] for event in events if event["type"] == "metrics" and event["kind"] == "train")


def through_the_service(client: Client, spec: dict[str, Any]) -> float:
    """Return the images/s of a job."""
    job = client.submit(spec)["id"]
    ended = client.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    return speed(client.metrics(job, kind="train"))


def main() -> None:
    """Run the rounds and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    spec = {
        "model": "resnet20",
        "normalization": {"type": "group", "num_groups": 8},
        "batch_size": arguments.batch_size,
        "precision": "float32",
        "epochs": 1,
        "dataset": {"name": "synthetic", "train_limit": arguments.images, "test_limit": 100},
    }
    pairs = []
    with tempfile.TemporaryDirectory(prefix="nl") as folder:
        settings = Settings(home=Path(folder, "home"), port=0)
        with Supervisor(settings) as supervisor, Client(supervisor.url) as client:
            supervisor.wait_ready()
            through_the_service(client, spec)
            for number in range(arguments.rounds):
                runs = [lambda: bare(spec, Path(folder)), lambda: through_the_service(client, spec)]
                order = (0, 1) if number % 2 == 0 else (1, 0)
                measured = {which: runs[which]() for which in order}
                pairs.append((measured[0], measured[1]))
                print(f"bare {measured[0]:.1f}, service {measured[1]:.1f} images/s", file=sys.stderr, flush=True)
    ratios = [service / alone for alone, service in pairs]
    print(
        f"batch {arguments.batch_size}: bare {statistics.median(a for a, _ in pairs):.1f} images/s, "
        f"service {statistics.median(b for _, b in pairs):.1f} images/s, "
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), n = {len(pairs)}"
    )


if __name__ == "__main__":
    main()
