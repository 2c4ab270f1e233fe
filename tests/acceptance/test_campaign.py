"""A campaign of faults at random, against a whole service: `make test-campaign`.

Processes are killed and frozen, alone and several at once, and jobs paused, resumed and cancelled, while jobs of
several kinds train. Whatever happened, each job ends in the weights and the rows of one that nobody disturbed.

`NORMLAB_CAMPAIGN_S` says for how long, `NORMLAB_CAMPAIGN_SEED` which faults in which order; when each strikes depends
on the machine too. What was done is printed (`ARGS=-s`), and shown where it fails.
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
from tests.acceptance.conftest import Service
from tests.integration.dispatcher.conftest import command_of, descendants, kill

pytestmark = [pytest.mark.ray, pytest.mark.campaign]

SECONDS = float(os.environ.get("NORMLAB_CAMPAIGN_S", "120"))
SEED = int(os.environ.get("NORMLAB_CAMPAIGN_SEED", "0"))
STUDY = {
    "model": "resnet20",
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
"""Jobs that are there to be hurt, at any time."""
APART_S = 15.0
"""Between deaths of a process that the supervisor starts: it gives up on what dies five times right after its start."""
FROZEN_S = (0.5, 2.0, 6.0, 14.0)
"""Some are longer than the leases."""

Outcome = tuple[str, list[dict[str, Any]]]


@dataclass
class Campaign:
    """One service, the jobs given to it, and what is done to them."""

    service: Service
    random: random.Random
    jobs: dict[str, int] = field(default_factory=dict)
    """By id, the number of their kind."""
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
        """The weights a job ended with, and its rows but for how fast they came."""
        rows = [
            {name: value for name, value in row.items() if name not in ("images_per_s", "time", "attempt")}
            for row in self.service.client.metrics(job)
        ]
        return self.service.weights(job), sorted(rows, key=lambda row: (row["kind"], row["step"]))

    def strike(self) -> None:
        """Do one thing, out of all there are."""
        act = self.random.choice([self.kill_one, self.kill_one, self.freeze, self.ask, self.ask, self.kill_several])
        try:
            act()
        except ClientError as error:
            self.say("the api answered:", str(error)[:100])

    def kill_one(self) -> None:
        """One process, which may be anybody's."""
        name = self.random.choice(["api", "dispatcher", "ray", "raylet", "worker", "training"])
        if (pid := self.find(name)) is not None and self.may_die(name):
            self.say("kill", name, pid)
            kill(pid)

    def kill_several(self) -> None:
        """The api, the dispatcher, and what trains."""
        if self.may_die("api") and self.may_die("dispatcher"):
            pids = [self.find(name) for name in ("api", "dispatcher", "worker", "training")]
            self.say("kill", *pids)
            for pid in filter(None, pids):
                kill(pid)

    def freeze(self) -> None:
        """One process, for a while, as a machine that swaps or a debugger would."""
        name, seconds = self.random.choice(["api", "dispatcher", "worker", "training"]), self.random.choice(FROZEN_S)
        if (pid := self.find(name)) is None:
            return
        self.say("freeze", name, pid, "for", seconds, "s")
        kill(pid, signal.SIGSTOP)
        threading.Timer(seconds, kill, (pid, signal.SIGCONT)).start()

    def ask(self) -> None:
        """What people ask of a job; often of one that is in no state to do it."""
        job = self.random.choice(list(self.jobs)[-AT_ONCE:])
        wanted = self.random.choice(["pause", "resume", "resume", "cancel"])
        self.say(wanted, job)
        getattr(self.service.client, wanted)(job)

    def may_die(self, name: str) -> bool:
        """Whether the supervisor, who counts, has seen the last one well. A death of Ray ends the dispatcher too."""
        counted = "dispatcher" if name == "ray" else name
        if counted in ("api", "dispatcher"):
            if time.monotonic() - self._last.get(counted, 0) < APART_S:
                return False
            self._last[counted] = time.monotonic()
        return True

    def find(self, name: str) -> int | None:
        """The process id of one of that name, if there is any now."""
        children = self.service.supervisor.pids
        if name in ("api", "dispatcher", "ray"):
            return children.get(name)
        # Agents of Ray's are called so too: one of them was how it was found that a raylet leaves with its agent.
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
        time.sleep(campaign.random.uniform(0.3, 3))  # what is to be awaited is anything at all
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
    assert not list(service.home.rglob(".*")), "what interrupted writes leave is cleared away"


def resumed(service: Service, job: str) -> bool:
    """Whether a job that somebody wanted to pause goes on."""
    if service.client.job(job)["status"] == "paused":
        service.client.resume(job)
    return service.client.job(job)["status"] not in ("paused", "pausing")
