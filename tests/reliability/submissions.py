"""200 submissions a second for a minute, while two jobs train: how long they take, and whether each is there once."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from tests.acceptance.whole_service import running_service
from tests.reliability.kills import STUDY
from tests.reliability.report import percentiles, promise, table

RATE, SECONDS = 200, 60
TRAINING: dict[str, Any] = STUDY | {"epochs": 10_000}


def run(folder: Path, *, short: bool) -> Iterator[str]:
    """Yield the table of latencies."""
    seconds = 5 if short else SECONDS
    with running_service(folder / "home") as service:
        for seed in range(2):
            job = service.client.submit(TRAINING | {"seed": seed, "priority": 100})["id"]
            service.wait_for_step(job, 1)
        latencies, answers = asyncio.run(submit(service.supervisor.url, RATE, seconds))
        stored = sum(1 for _ in service.client.jobs(label="part:submissions"))
    promise(answers[201] == stored, f"{answers[201]} submissions were answered 201, but {stored} jobs are stored")
    median, slowest = percentiles(latencies)
    sent = sum(answers.values())
    yield table(
        ("submissions", "answers", "p50", "p99", "jobs stored"),
        [
            (
                f"{RATE} a second for {seconds} s: {sent}",
                ", ".join(f"{count} × {status or 'no answer'}" for status, count in answers.items()),
                f"{1000 * median:.0f} ms",
                f"{1000 * slowest:.0f} ms",
                stored,
            )
        ],
    )


async def submit(url: str, rate: int, seconds: int) -> tuple[list[float], Counter[int]]:
    """Submit jobs at a rate that does not wait for answers. Returns seconds of each, and the number of each status."""
    latencies: list[float] = []
    answers: Counter[int] = Counter()
    body = STUDY | {"labels": {"part": "submissions"}}
    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

        async def one(due: float) -> None:
            await asyncio.sleep(due - time.monotonic())
            try:
                status = (await client.post("/v1/jobs", json=body)).status_code
            except httpx2.TransportError:
                status = 0
            answers[status] += 1
            latencies.append(time.monotonic() - due)

        began = time.monotonic() + 0.5
        async with asyncio.TaskGroup() as tasks:
            for number in range(rate * seconds):
                tasks.create_task(one(began + number / rate))
    return latencies, answers
