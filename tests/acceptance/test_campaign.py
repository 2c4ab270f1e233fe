"""A campaign of random faults against a whole service: `make test-campaign`.

Processes are killed and frozen, alone and several at once, and jobs are paused, resumed and cancelled, while jobs of
several kinds train. At the end each job has the same weights and rows as an undisturbed one.

`NORMLAB_CAMPAIGN_S` sets the duration, `NORMLAB_CAMPAIGN_SEED` the kinds and the order of the faults; their timing also
depends on the machine. The log of the faults is printed (`ARGS=-s`), and shown when the test fails.
"""

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.client import ClientError
from service.jobs import TERMINAL
from tests.acceptance.whole_service import Service
from tests.integration.dispatcher.conftest import command_of, descendants, kill

pytestmark = [pytest.mark.ray, pytest.mark.campaign]

SECONDS = float(os.environ.get("NORMLAB_CAMPAIGN_S", "120"))
SEED = int(os.environ.get("NORMLAB_CAMPAIGN_SEED", "0"))
STUDY = {
    "model": "resnet20",
    "precision": "float32",
    "epochs": 6,
    "dataset": {"name": "synthetic", "train_limit": 256, "test_limit": 100},
    "checkpoint": {"every_epochs": 2, "every_s": 1},
}
KINDS: list[dict[str, Any]] = [
    STUDY | {"normalization": {"type": "group", "num_groups": 8}, "batch_size": 16},
    STUDY | {"normalization": {"type": "batch"}, "batch_size": 16},
    STUDY | {"normalization": {"type": "group", "num_groups": 8}, "batch_size": 8, "num_workers": 2},
]
AT_ONCE = 4
"""Number of jobs in the queue or running at any time."""
APART_S = 15.0
"""Seconds between kills of a process: the supervisor gives up on one that ends five times right after its start."""
FROZEN_S = (0.5, 2.0, 6.0, 14.0)
"""Durations of freezes in seconds; some are longer than the leases."""

Outcome = tuple[str, list[dict[str, Any]]]


@dataclass
class Campaign:
    """A service, the jobs submitted to it, and the faults."""

    service: Service
    random: random.Random
    jobs: dict[str, int] = field(default_factory=dict)
    """The number of the kind of each job, by its id."""
    _last: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)

    def say(self, *words: object) -> None:
        print(f"{time.monotonic() - self._began:7.1f}", *words, flush=True)

    def submit(self) -> None:
        kind = self.random.randrange(len(KINDS))
        self.jobs[self.service.client.submit(KINDS[kind])["id"]] = kind

    def unfinished(self) -> list[str]:
        return [job for job in self.jobs if self.service.client.job(job)["status"] not in TERMINAL]

    def outcome(self, job: str) -> Outcome:
        """Return the final weights of a job, and its rows without the throughput."""
        rows = [
            {name: value for name, value in row.items() if name not in ("images_per_s", "time", "attempt")}
            for row in self.service.client.metrics(job)
        ]
        return self.service.weights(job), sorted(rows, key=lambda row: (row["kind"], row["step"]))

    def strike(self) -> None:
        """Inject one fault, chosen at random."""
        act = self.random.choice([self.kill_one, self.kill_one, self.freeze, self.ask, self.ask, self.kill_several])
        try:
            act()
        except ClientError as error:
            self.say("the API answered:", str(error)[:100])

    def kill_one(self) -> None:
        """Kill one random process."""
        name = self.random.choice(["api", "dispatcher", "ray", "raylet", "worker", "training"])
        if (pid := self.find(name)) is not None and self.may_die(name):
            self.say("kill", name, pid)
            kill(pid)

    def kill_several(self) -> None:
        """Kill the API, the dispatcher, a Ray worker and a training process at once."""
        if self.may_die("api") and self.may_die("dispatcher"):
            pids = [self.find(name) for name in ("api", "dispatcher", "worker", "training")]
            self.say("kill", *pids)
            for pid in filter(None, pids):
                kill(pid)

    def freeze(self) -> None:
        """Freeze one process for some time, as swapping or a debugger would."""
        name, seconds = self.random.choice(["api", "dispatcher", "worker", "training"]), self.random.choice(FROZEN_S)
        if (pid := self.find(name)) is None:
            return
        self.say("freeze", name, pid, "for", seconds, "s")
        kill(pid, signal.SIGSTOP)
        threading.Timer(seconds, kill, (pid, signal.SIGCONT)).start()

    def ask(self) -> None:
        """Request an action on a random job, which its state often does not allow."""
        job = self.random.choice(list(self.jobs)[-AT_ONCE:])
        wanted = self.random.choice(["pause", "resume", "resume", "cancel"])
        self.say(wanted, job)
        getattr(self.service.client, wanted)(job)

    def may_die(self, name: str) -> bool:
        """Return whether the last kill is `APART_S` ago, and record this one. The dispatcher ends with Ray."""
        counted = "dispatcher" if name == "ray" else name
        if counted in ("api", "dispatcher"):
            if time.monotonic() - self._last.get(counted, 0) < APART_S:
                return False
            self._last[counted] = time.monotonic()
        return True

    def find(self, name: str) -> int | None:
        """Return the id of a process with this name, or None if there is none."""
        children = self.service.supervisor.pids
        if name in ("api", "dispatcher", "ray"):
            return children.get(name)
        # Ray's agents match as well: killing one showed that a raylet exits with its agent.
        mark = {"raylet": b"/raylet", "worker": b"ray::", "training": b"worker.process\0"}[name]
        found = [pid for pid in descendants(children["ray"]) if mark in command_of(pid)] if "ray" in children else []
        return self.random.choice(found) if found else None


@pytest.fixture(name="campaign")
def _campaign(start_service: Callable[..., Service]) -> Campaign:
    return Campaign(start_service(max_lost=1000), random.Random(SEED))


def test_whatever_happens_every_job_ends_as_if_nothing_had(campaign: Campaign) -> None:
    service = campaign.service
    undisturbed = [service.client.submit(kind)["id"] for kind in KINDS]
    for job in undisturbed:
        assert service.client.wait(job)["status"] == "succeeded"
    expected = [campaign.outcome(job) for job in undisturbed]

    campaign.say("seed", SEED, "for", SECONDS, "s")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        assert service.supervisor.error is None
        while len(campaign.unfinished()) < AT_ONCE:
            campaign.submit()
        campaign.strike()
        time.sleep(campaign.random.uniform(0.3, 3))  # the faults must come at arbitrary times
    time.sleep(max(FROZEN_S))

    campaign.say("calm")
    for job in campaign.jobs:
        if service.client.job(job)["status"] in ("paused", "pausing"):
            service.until(lambda job=job: resumed(service, job), f"{job} to go on")  # type: ignore[misc]
        service.client.wait(job)
    ended = [service.client.job(job) for job in campaign.jobs]
    attempts = list(itertools.chain.from_iterable(job["attempts"] for job in ended))
    campaign.say(Counter(job["status"] for job in ended), Counter(attempt["outcome"] for attempt in attempts))
    assert {job["status"] for job in ended} <= {"succeeded", "cancelled"}
    assert None not in {attempt["outcome"] for attempt in attempts}
    for job in ended:
        if job["status"] == "succeeded":
            assert job["attempts"][-1]["outcome"] == "succeeded"
            assert campaign.outcome(job["id"]) == expected[campaign.jobs[job["id"]]], job["id"]
    service.until(lambda: all(w["state"] == "idle" for w in service.client.cluster()["workers"]), "idle workers")
    assert not list(service.home.rglob(".*")), "files of interrupted writes are removed"


def resumed(service: Service, job: str) -> bool:
    """Return whether a job that was asked to pause continues."""
    if service.client.job(job)["status"] == "paused":
        service.client.resume(job)
    return service.client.job(job)["status"] not in ("paused", "pausing")
