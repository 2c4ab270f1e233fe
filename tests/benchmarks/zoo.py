"""Train every normalization, or two in both precisions, on a running service, and print the errors as a table.

    python tests/benchmarks/zoo.py zoo|precision [--url http://127.0.0.1:8000]

`zoo`: ResNet-20, every normalization at 32 and at 4 images, one pass over 16,000 images of CIFAR-10 in bfloat16,
3 seeds; some two hours of two cores with AVX512-BF16. `precision`: group and batch normalization at 32 images, one pass
over 40,000 images, 5 seeds; half an hour. Both are tested on 5,000 images. What was submitted before is continued.
"""

import argparse
from typing import Any

from service.client import Client
from worker.normalizations.registry import NORMALIZATIONS

RAMPS = {"momentum": 0.05, "ramp_start": 100, "r_ramp_end": 400, "d_ramp_end": 300}
"""Of batch renormalization, for 500 to 4,000 steps; that of its paper takes 40,000."""
SEEDS = {"zoo": [0, 1, 2], "precision": [0, 1, 2, 3, 4]}
COLUMNS = {"zoo": "batch_size", "precision": "precision"}


def request(name: str) -> dict[str, Any]:
    """Return the experiment with a name."""
    base: dict[str, Any] = {
        "recipe": "wu-he",
        "model": "resnet20",
        "epochs": 1,
        "schedule": {"type": "cosine", "warmup_epochs": 0.25},
    }
    if name == "zoo":
        # With one worker, sync_batch is batch.
        norms = [{"type": norm} for norm in NORMALIZATIONS if norm != "sync_batch"]
        norms = [norm | RAMPS if norm["type"] == "batch_renorm" else norm for norm in norms]
        base |= {"dataset": {"name": "cifar10", "train_limit": 16_000, "test_limit": 5_000}, "precision": "bfloat16"}
        grid: dict[str, Any] = {"normalization": norms, "batch_size": [32, 4]}
    else:
        base |= {"dataset": {"name": "cifar10", "train_limit": 40_000, "test_limit": 5_000}, "batch_size": 32}
        grid = {"normalization": [{"type": "group"}, {"type": "batch"}], "precision": ["float32", "bfloat16"]}
    outcome = {"metric": "test_error", "statistic": "final"}
    return {"name": name, "base": base, "grid": grid | {"seed": SEEDS[name]}, "outcome": outcome}


def table(results: dict[str, Any]) -> str:
    """Return the cells as a table: mean error in % and its 95 % interval."""
    columns = list(dict.fromkeys(cell["column"] for cell in results["cells"]))
    lines = [f"| normalization | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for row in dict.fromkeys(cell["row"] for cell in results["cells"]):
        of_row = {cell["column"]: cell for cell in results["cells"] if cell["row"] == row}
        lines.append(f"| {row} | {' | '.join(_text(of_row[column]) for column in columns)} |")
    return "\n".join(lines)


def _text(cell: dict[str, Any]) -> str:
    if cell["mean"] is None or cell["interval"] is None:
        return f"n = {cell['n']}, {cell['failed']} failed"
    low, high = cell["interval"]
    failed = f", {cell['failed']} failed" if cell["failed"] else ""
    return f"{100 * cell['mean']:.1f} ({100 * low:.1f} to {100 * high:.1f}){failed}"


def main() -> None:
    """Submit the experiment unless it was submitted, wait for its end, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SEEDS)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    with Client(arguments.url) as client:
        before = [one["id"] for one in client.experiments.list() if one["name"] == arguments.name]
        id_ = before[0] if before else client.experiments.submit(request(arguments.name))["id"]
        for job in client.jobs(experiment=id_):
            client.wait(job["id"])
        results = client.experiments.results(id_, columns=COLUMNS[arguments.name])
        print(table(results), results["headline"], sep="\n\n")
        for comparison in results["comparisons"]:
            print(comparison)


if __name__ == "__main__":
    main()
