"""Each process is killed and frozen under a running job."""

import os
import shlex
import signal
import subprocess
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
from tests.reliability.report import Broken, promise, table

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
        down_s: Seconds until the supervisor starts the successors of its children.
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
    """Let the supervisor start the successors of processes later."""
    ends = time.monotonic() + down_s
    for name in names:
        _wait_for_end(service, name)
        service.supervisor._children[name].start_at = ends


def _wait_for_end(service: Service, name: str) -> None:
    service.until(lambda: name not in service.supervisor.pids, f"the end of the {name}")


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

    silence_s: float
    """The longest time in which the API reported no further step, from the fault to the end of the job."""
    repeated: float
    """Epochs that were trained twice."""
    attempts: int


def run(folder: Path, *, short: bool) -> Iterator[str]:
    """Yield the tables of all faults, and the time of a cancellation while Ray does not answer."""
    rows: list[tuple[str, Survived]] = []
    with running_service(folder / "home", worker_idle_s=3600) as service:
        expected = undisturbed(service)
        for name, strike in FAULTS.items():
            if not short or name in SHORT:
                rows.append((name, survive(service, strike, expected)))
                time.sleep(APART_S)
        yield survivals(rows)
        if short:
            return
        cancelled_s = cancel_without_ray(service)
        yield table(
            ("cancellation", "s until the job is cancelled"), [("while the GCS is frozen", f"{cancelled_s:.1f}")]
        )
    with private_server() as server:
        url = create_database(server, "reliability")
        with running_service(folder / "postgresql", database_url=url) as service:

            def restart(_: Service) -> None:
                pid = int(Path(server.datadir, "postmaster.pid").read_text(encoding="utf-8").split()[0])
                os.kill(pid, signal.SIGKILL)
                # The executor believes that its server runs.
                threading.Timer(5, subprocess.run, (shlex.split(server.command),), {"check": True}).start()

            found = survive(service, restart, undisturbed(service))
    yield survivals([("PostgreSQL killed, away for 5 s", found)])


def survivals(rows: list[tuple[str, Survived]]) -> str:
    return table(
        ("fault", "longest s without a step", "epochs trained twice", "attempts"),
        [(name, f"{one.silence_s:.1f}", f"{one.repeated:.1f}", one.attempts) for name, one in rows],
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
    silence_s = _silence(service, job, began, before)
    ended = service.client.wait(job)
    promise(ended["status"] == "succeeded", f"the job {ended['status']}: {ended['error']}")
    promise(service.rows(job) == service.rows(expected), "rows are missing or double")
    promise(service.weights(job) == service.weights(expected), "the weights differ")
    resumed = [attempt["resumed_from_step"] for attempt in ended["attempts"][1:]]
    repeated = sum(max(0, before - (step or 0)) for step in resumed[:1]) / STEPS_PER_EPOCH
    return Survived(silence_s, repeated, len(ended["attempts"]))


def _silence(service: Service, job: str, began: float, step: int) -> float:
    """Return the longest time from `began` to the end of a job in which no step after `step` was reported."""
    last, silence = began, 0.0
    while time.monotonic() - last < PATIENCE_S:
        with suppress(Exception):
            found = service.client.job(job)
            reported, now = (found["progress"] or {}).get("step", 0), time.monotonic()
            if reported > step:
                silence, step, last = max(silence, now - last), reported, now
            if found["status"] not in ("queued", "running"):
                return max(silence, now - last)
        time.sleep(0.02)
    raise Broken(f"no step within {PATIENCE_S} s")


def cancel_without_ray(service: Service) -> float:
    """Return the seconds from a request to cancel until the job is cancelled, while Ray does not answer."""
    job = service.client.submit(STUDY | {"epochs": 1000})["id"]
    service.wait_for_step(job, FIRST_STEPS)
    fault("gcs", number=signal.SIGSTOP)(service)
    began = time.monotonic()
    service.client.cancel(job)
    service.until(lambda: service.client.job(job)["status"] == "cancelled", "the cancellation")
    return time.monotonic() - began
