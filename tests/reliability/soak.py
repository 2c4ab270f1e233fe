"""500 tiny jobs, one after another on every slot: the time of each, and what the processes use more and more of."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.acceptance.whole_service import Service, running_service
from tests.reliability.processes import Use, use
from tests.reliability.report import promise, table

JOBS, SAMPLES = 500, 25
TINY: dict[str, Any] = {
    "normalization": {"type": "group", "num_groups": 8},
    "precision": "float32",
    "batch_size": 16,
    "epochs": 1,
    "dataset": {"name": "synthetic", "train_limit": 32, "test_limit": 16},
}


def run(folder: Path, *, short: bool) -> Iterator[str]:
    """Yield the table of what each process uses, and how it changes."""
    count = 40 if short else JOBS
    with running_service(folder / "home") as service:
        finished: list[int] = []
        found: list[dict[str, Use]] = []
        began = time.monotonic()
        # Always a few in the queue, so that no slot waits for a submission.
        ids = [service.client.submit(TINY | {"seed": seed})["id"] for seed in range(count)]
        for number in range(count // SAMPLES, count + 1, count // SAMPLES):
            for job in ids[:number]:
                service.client.wait(job)
            finished.append(number)
            found.append(use(service))
        seconds = (time.monotonic() - began) / count
        _promise_nothing_is_left(service, ids)
    # The first jobs fill caches.
    half = len(found) // 2
    rows = []
    for name in found[-1]:
        samples = [one[name] for one in found[half:] if name in one]
        slopes = [
            100 * float(np.polyfit(finished[half:][: len(samples)], [getattr(one, what) for one in samples], 1)[0])
            for what in ("memory", "descriptors", "threads")
        ]
        last = samples[-1]
        rows.append(
            (
                name,
                f"{last.memory:.0f} MiB ({slopes[0]:+.2f})",
                f"{last.descriptors} ({slopes[1]:+.2f})",
                f"{last.threads} ({slopes[2]:+.2f})",
            )
        )
    yield f"{count} jobs, {seconds:.2f} s each; in parentheses the change per 100 jobs in the second half\n"
    yield table(("process", "memory", "descriptors", "threads"), rows)


def _promise_nothing_is_left(service: Service, ids: list[str]) -> None:
    statuses = [service.client.job(job)["status"] for job in ids]
    promise(set(statuses) == {"succeeded"}, f"jobs ended as {set(statuses)}")
    attempts = [len(service.client.job(job)["attempts"]) for job in ids]
    promise(set(attempts) == {1}, f"jobs had {set(attempts)} attempts")
    idle = [worker["state"] for worker in service.client.cluster()["workers"]]
    promise(set(idle) <= {"idle"}, f"workers are {idle}")
    promise(not list(service.home.rglob(".*")), "files of interrupted writes are left")
