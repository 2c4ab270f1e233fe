"""Calls of the store as its users make them: the API creates jobs, the dispatcher claims them and reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from service.jobs import JobRequest, Status
from service.store import Database, attempts, events, jobs, metrics
from service.store.attempts import FreeWorker
from service.store.identifiers import new_id
from worker.events import CheckpointTaken, Event, Failure, File, Finished, Log, Metrics, Outcome, Started
from worker.metrics import MetricKind

FINAL = Failure(code="diverged", message="the loss is not finite at step 3", may_pass=False, step=3)
PASSING = Failure(code="exception", message="the disk was away", may_pass=True)


def request(**given: Any) -> JobRequest:
    """Return a valid request with the given fields."""
    return JobRequest.model_validate({"normalization": {"type": "group"}, "batch_size": 2} | given)


async def create(database: Database, **given: Any) -> str:
    """Create a job and return its id."""
    async with database.write() as session:
        return (await jobs.create(session, request(**given))).id


async def status(database: Database, job_id: str) -> Status:
    """Return the status of a job."""
    async with database.read() as session:
        return (await jobs.get(session, job_id)).status


async def history(database: Database, job_id: str) -> list[Status]:
    """Return the statuses of a job in the order of its events."""
    async with database.read() as session:
        return [Status(event.data["status"]) for event in await events.of_type(session, job_id, "status")]


async def live_rows(database: Database, job_id: str, *kinds: MetricKind) -> list[tuple[str, int, str]]:
    """Return (kind, step, attempt) of each live row."""
    async with database.read() as session:
        found = await metrics.rows(session, job_id, kinds=kinds or get_args(MetricKind))
        return [(row.kind, row.step, row.attempt_id) for row in found]


@dataclass
class Worker:
    """A worker that holds an attempt, and the dispatcher that polls it."""

    database: Database
    job: str
    attempt: str
    seq: int = 0

    @classmethod
    async def claim(cls, database: Database, *names: str) -> "Worker":
        """Claim the next job, with as many workers of `names` as it needs."""
        free = [FreeWorker(name, "node-1") for name in names or ("worker-1",)]
        async with database.write() as session:
            claimed = await attempts.claim(session, free, auto="float32")
        assert isinstance(claimed, tuple), "no job waits"
        return cls(database, claimed[0].id, claimed[1].id)

    @classmethod
    async def run(cls, database: Database, resumed_from_step: int = 0) -> "Worker":
        """Claim the next job and report that it runs."""
        worker = await cls.claim(database)
        await worker.start(resumed_from_step)
        return worker

    async def record(self, *reported: Event, stored: Mapping[int, str] = {}) -> None:
        """Record the events of one poll, without changes."""
        async with self.database.write() as session:
            await attempts.record(session, self.attempt, reported, stored)

    def number(self, event: Event) -> Event:
        """Return the event with the next number."""
        self.seq += 1
        return event.model_copy(update={"seq": self.seq})

    async def report(self, *reported: Event) -> None:
        """Report events in one poll."""
        await self.record(*[self.number(event) for event in reported])

    async def start(self, resumed_from_step: int = 0) -> None:
        """Report that the attempt is ready for its first step."""
        await self.report(started(resumed_from_step))

    async def log(self, message: str, level: Any = "info") -> None:
        """Report a line of the log."""
        await self.report(Log(message=message, level=level))

    async def checkpoint(self, step: int, epoch: int = 1, /, **measured: float) -> str:
        """Report a checkpoint and return its id."""
        id_ = new_id("checkpoint")
        event = self.number(checkpoint_taken(step, epoch, **measured))
        await self.record(event, stored={event.seq: id_})
        return id_

    async def finish(self, outcome: Outcome = "succeeded", failure: Failure | None = None) -> None:
        """Report the end of the attempt."""
        await self.report(Finished(outcome=outcome, failure=failure))

    async def lose(self, max_lost: int = 5) -> None:
        """Record that the node was lost."""
        async with self.database.write() as session:
            await attempts.lose(session, self.attempt, "the node went away", max_lost)

    async def fail(self, failure: Failure) -> None:
        """Record that the worker ended by an error that it could not report."""
        async with self.database.write() as session:
            await attempts.fail(session, self.attempt, failure)


def started(resumed_from_step: int = 0) -> Started:
    """Return the first event of an attempt."""
    return Started(
        device="cpu",
        precision="float32",
        parameters=269_722,
        steps_per_epoch=3,
        total_steps=30,
        resumed_from_step=resumed_from_step,
        versions={"torch": "2.13.0"},
    )


def row(step: int, kind: MetricKind = "eval", epoch: int = 1, **values: float) -> Metrics:
    """Return an event with a row of metrics."""
    return Metrics(kind=kind, epoch=epoch, step=step, values=values or {"test_error": 1 / (step + 1)})


def checkpoint_taken(step: int, epoch: int = 1, /, **measured: float) -> CheckpointTaken:
    """Return the event of a checkpoint."""
    files = {"model.safetensors": File(size=100, sha256="0" * 64), "state.pt": File(size=11, sha256="1" * 64)}
    return CheckpointTaken(epoch=epoch, step=step, metrics=measured, files=files)
