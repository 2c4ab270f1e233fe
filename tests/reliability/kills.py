"""Each process is killed and frozen under a running job."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.whole_service import PATIENCE_S, Service, running_service
from tests.integration.dispatcher.conftest import kill
from tests.postgres import create_database, private_server
from tests.reliability.processes import find
from tests.reliability.report import promise, table

STUDY: dict[str, Any] = {
    "model": "resnet20",
    "precision": "float32",
    "normalization": {"type": "group", "num_groups": 8},
    "batch_size": 16,
    "epochs": 60,
    "dataset": {"name": "synthetic", "train_limit": 256, "test_limit": 100},
}
STEPS_PER_EPOCH = 16
FIRST_STEPS = 40
"""Steps before a fault."""
APART_S = 12
"""The supervisor gives up on a process that ends five times in a row right after its start."""


def fault(*names: str, number: int = signal.SIGKILL, down_s: float = 0) -> Callable[[Service], None]:
    """Return what kills or freezes all processes with these names.

    Args:
        names: Names of processes.
        number: SIGKILL or SIGSTOP.
        down_s: Seconds for which the successors of the children of the supervisor are stopped at their start.
    """

    def strike(service: Service) -> None:
        pids = [pid for name in names for pid in find(service, name)]
        promise(bool(pids), f"there is no {names}")
        for pid in pids:
            kill(pid, number)
        if down_s:
            threading.Thread(target=hold_down, args=(service, names, down_s)).start()

    return strike


def hold_down(service: Service, names: tuple[str, ...], down_s: float) -> None:
    """Stop the successors of processes as soon as they start, and let them go on later."""
    before, ends = service.supervisor.pids, time.monotonic() + down_s
    stopped: set[int] = set()
    while time.monotonic() < ends:
        for name in names:
            pid = service.supervisor.pids.get(name)
            if pid is not None and pid != before.get(name) and pid not in stopped:
                kill(pid, signal.SIGSTOP)
                stopped.add(pid)
        time.sleep(0.01)
    for pid in stopped:
        kill(pid, signal.SIGCONT)


EVERYTHING = ("api", "dispatcher", "raylet", "gcs", "actor", "training")
FAULTS: dict[str, Callable[[Service], None]] = {
    "API killed": fault("api"),
    "API frozen": fault("api", number=signal.SIGSTOP),
    "dispatcher killed": fault("dispatcher"),
    "dispatcher killed, away for 20 s": fault("dispatcher", down_s=20),
    "dispatcher killed, away for 60 s": fault("dispatcher", down_s=60),
    "dispatcher frozen": fault("dispatcher", number=signal.SIGSTOP),
    "training process killed": fault("training"),
    "training process frozen": fault("training", number=signal.SIGSTOP),
    "actor killed": fault("actor"),
    "actor frozen": fault("actor", number=signal.SIGSTOP),
    "raylet killed": fault("raylet"),
    "GCS killed": fault("gcs"),
    "GCS frozen": fault("gcs", number=signal.SIGSTOP),
    "Ray's head killed": fault("ray"),
    "all of these killed at once": fault(*EVERYTHING),
}
SHORT = ("API killed", "dispatcher killed", "training process killed")


@dataclass(frozen=True)
class Survived:
    """How a job survived a fault."""

    again_s: float
    """From the fault until a later step was reported."""
    repeated: float
    """Epochs that were trained twice."""
    attempts: int


def run(folder: Path, *, short: bool) -> Iterator[str]:
    """Yield the table of all faults, and the time of a cancellation while Ray does not answer."""
    rows: list[tuple[str, Survived]] = []
    with running_service(folder / "home", worker_idle_s=3600) as service:
        expected = undisturbed(service)
        for name, strike in FAULTS.items():
            if not short or name in SHORT:
                rows.append((name, survive(service, strike, expected)))
                time.sleep(APART_S)
        cancelled_s = None if short else cancel_without_ray(service)
    if not short:
        with private_server() as server:
            url = create_database(server, "reliability")
            with running_service(folder / "postgresql", database_url=url) as service:

                def restart(_: Service) -> None:
                    pid = int(Path(server.datadir, "postmaster.pid").read_text(encoding="utf-8").split()[0])
                    os.kill(pid, signal.SIGKILL)
                    threading.Timer(5, server.start).start()

                rows.append(("PostgreSQL killed, away for 5 s", survive(service, restart, undisturbed(service))))
    yield table(
        ("fault", "s until steps were reported again", "epochs trained twice", "attempts"),
        [(name, f"{one.again_s:.1f}", f"{one.repeated:.1f}", one.attempts) for name, one in rows],
    )
    if cancelled_s is not None:
        yield table(
            ("cancellation", "s until the job is cancelled"), [("while the GCS is frozen", f"{cancelled_s:.1f}")]
        )


def undisturbed(service: Service) -> str:
    """Return a job that nothing disturbed."""
    job: str = service.client.submit(STUDY)["id"]
    promise(service.client.wait(job)["status"] == "succeeded", "an undisturbed job failed")
    return job


def survive(service: Service, strike: Callable[[Service], None], expected: str) -> Survived:
    """Inject a fault under a job, and compare its result with that of an undisturbed one.

    Raises:
        Broken: If it has other weights or rows.
    """
    job = service.client.submit(STUDY)["id"]
    service.wait_for_step(job, FIRST_STEPS)
    before = service.client.job(job)["progress"]["step"]
    began = time.monotonic()
    strike(service)
    again_s = _again(service, job, before) - began
    ended = service.client.wait(job)
    promise(ended["status"] == "succeeded", f"the job {ended['status']}: {ended['error']}")
    promise(service.rows(job) == service.rows(expected), "rows are missing or double")
    promise(service.weights(job) == service.weights(expected), "the weights differ")
    resumed = [attempt["resumed_from_step"] for attempt in ended["attempts"][1:]]
    repeated = sum(max(0, before - (step or 0)) for step in resumed[:1]) / STEPS_PER_EPOCH
    return Survived(again_s, repeated, len(ended["attempts"]))


def _again(service: Service, job: str, before: int) -> float:
    """Return when a step after `before` was first reported."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(Exception):
            found = service.client.job(job)
            if found["status"] in ("running", "succeeded") and (found["progress"] or {}).get("step", 0) > before:
                return time.monotonic()
        time.sleep(0.02)
    promise(False, f"no step within {PATIENCE_S} s")
    raise AssertionError


def cancel_without_ray(service: Service) -> float:
    """Return the seconds from a request to cancel until the job is cancelled, while Ray does not answer."""
    job = service.client.submit(STUDY | {"epochs": 1000})["id"]
    service.wait_for_step(job, FIRST_STEPS)
    fault("gcs", number=signal.SIGSTOP)(service)
    began = time.monotonic()
    service.client.cancel(job)
    service.until(lambda: service.client.job(job)["status"] == "cancelled", "the cancellation")
    return time.monotonic() - began
