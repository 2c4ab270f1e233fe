"""The API and the dispatcher are killed before and after every commit and every call of a worker.

The places are found, not chosen: `failpoints/sitecustomize.py` runs in each process of the service and records the line
of the project behind every commit and every remote call. Then each of them kills its process once, before and after,
while jobs train, pause, resume and are cancelled.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.jobs import TERMINAL
from tests.acceptance.whole_service import Service, running_service
from tests.reliability.kills import STUDY
from tests.reliability.report import Broken, promise, table

FAILPOINTS = Path(__file__).parent / "failpoints"
SMALL: dict[str, Any] = STUDY | {"epochs": 3}
APART_S = 11
"""The supervisor gives up on a process that ends five times in a row within ten seconds of its start."""


def run(folder: Path, *, short: bool) -> Iterator[str]:
    """Yield the table of places, and whether all was whole after each crash."""
    record, armed = folder / "places", folder / "armed"
    environment = {"NORMLAB_PLACES": str(record), "NORMLAB_ARMED": str(armed), "PYTHONPATH": str(FAILPOINTS)}
    os.environ.update(environment)
    try:
        with running_service(folder / "home") as service:
            expected = cycle(service)
            places = sorted(set(record.read_text(encoding="utf-8").split()))
            points = [(place, when) for place in places for when in ("before", "after")]
            rows = [_crash(service, armed, place, when, expected) for place, when in (points[:4] if short else points)]
    finally:
        for name in environment:
            del os.environ[name]
    reached = [row for row in rows if row is not None]
    yield f"{len(places)} places, {len(points)} crash points; {len(reached)} of {len(rows)} were reached\n"
    yield table(("place", "killed", "s until the jobs had ended"), reached)


def cycle(service: Service) -> tuple[str, Any]:
    """Let jobs train, pause, resume and be cancelled. Returns weights and rows of those that trained.

    Raises:
        Broken: If a job does not end as it was asked to.
    """
    client = service.client
    trained, paused, cancelled = (client.submit(SMALL, idempotency_key=os.urandom(8).hex())["id"] for _ in range(3))
    _ask(service, "pause", paused)
    _ask(service, "cancel", cancelled)
    service.until(lambda: client.job(paused)["status"] in ("paused", *TERMINAL), "the pause")
    _ask(service, "resume", paused)
    ended = [client.wait(job) for job in (trained, paused, cancelled)]
    promise([job["status"] for job in ended][:2] == ["succeeded"] * 2, f"jobs ended as {ended}")
    promise(ended[2]["status"] in ("cancelled", "succeeded"), f"a cancelled job {ended[2]['status']}")
    outcomes = {(service.weights(job), tuple(sorted(service.rows(job).items()))) for job in (trained, paused)}
    promise(len(outcomes) == 1, "jobs with one seed differ")
    return outcomes.pop()


def _ask(service: Service, action: str, job: str) -> None:
    """Request an action, unless the job has ended."""
    if service.client.job(job)["status"] not in TERMINAL:
        try:
            getattr(service.client, action)(job)
        except Exception as error:
            if service.client.job(job)["status"] not in (*TERMINAL, "paused", "pausing", "cancelling"):
                raise Broken(f"{action}: {error}") from error


def _crash(
    service: Service, armed: Path, place: str, when: str, expected: tuple[str, Any]
) -> tuple[str, str, str] | None:
    """Kill the process that comes to a place. Returns a row of the table; None if none came."""
    time.sleep(APART_S)
    armed.write_text(f"{place} {when}", encoding="utf-8")
    began = time.monotonic()
    promise(cycle(service) == expected, f"{place}, {when}: weights or rows differ")
    took = time.monotonic() - began
    promise(service.supervisor.error is None, f"{place}, {when}: {service.supervisor.error}")
    if armed.exists():
        armed.unlink()
        return None
    return place, when, f"{took:.1f}"
