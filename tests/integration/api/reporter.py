"""A reporter in place of the dispatcher and its workers: it claims jobs and reports, by the functions of the store."""

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from service.artifacts import LocalArtifacts
from service.store import Database, attempts, leases
from service.store.identifiers import new_id
from worker.events import CheckpointTaken, Event, Failure, File, Finished, Log, Metrics, Outcome, Progress, Started


@dataclass
class Reporter:
    """One attempt, whose reports the test chooses."""

    database: Database
    artifacts: LocalArtifacts
    job: str = ""
    attempt: str = ""
    seq: int = 0
    total_steps: int = 100
    stored: dict[int, str] = field(default_factory=dict)

    async def claim(self, workers: int = 1) -> str:
        """Claim the next job with a number of workers, and return its id."""
        free = [attempts.FreeWorker(f"worker-{number}", f"node-{number}") for number in range(1, workers + 1)]
        async with self.database.write() as session:
            claimed = await attempts.claim(session, free, auto="float32")
        assert isinstance(claimed, tuple)
        self.job, self.attempt, self.seq = claimed[0].id, claimed[1].id, 0
        return self.job

    async def report(self, *reported: Event) -> None:
        """Record events in one transaction, as the dispatcher does for one poll."""
        numbered = []
        for event in reported:
            self.seq += 1
            numbered.append(event.model_copy(update={"seq": self.seq}))
        async with self.database.write() as session:
            await attempts.record(session, self.attempt, numbered, self.stored)

    async def start(self, resumed_from_step: int = 0, workers: int = 1) -> str:
        """Claim and start the next job with a number of workers, and return its id."""
        await self.claim(workers)
        await self.report(
            Started(
                device="cpu",
                precision="float32",
                parameters=269_722,
                steps_per_epoch=10,
                total_steps=self.total_steps,
                resumed_from_step=resumed_from_step,
                versions={"torch": "2.13.0"},
            )
        )
        return self.job

    async def metrics(
        self, kind: Any, epoch: int, step: int, *, eval_images_per_s: float | None = None, **values: float
    ) -> None:
        """Report a row of metrics."""
        row = Metrics(kind=kind, epoch=epoch, step=step, values=values, eval_images_per_s=eval_images_per_s)
        await self.report(row)

    async def progress(self, step: int, **values: Any) -> None:
        """Report the progress."""
        await self.report(Progress(epoch=1, step=step, **values))

    async def log(self, message: str, level: Any = "info") -> None:
        """Report a line of the log."""
        await self.report(Log(message=message, level=level))

    async def checkpoint(self, epoch: int, step: int, files: dict[str, bytes], **metrics: float) -> str:
        """Store a checkpoint, report it, and return its id."""
        id_ = new_id("checkpoint")
        described = {n: File(size=len(b), sha256=hashlib.sha256(b).hexdigest()) for n, b in files.items()}
        self.artifacts.write(self.job, id_, files, described)
        self.stored[self.seq + 1] = id_
        await self.report(CheckpointTaken(epoch=epoch, step=step, metrics=metrics, files=described))
        return id_

    async def finish(self, outcome: Outcome = "succeeded", failure: Failure | None = None) -> None:
        """Report the end of the attempt."""
        await self.report(Finished(outcome=outcome, failure=failure))

    async def lose(self) -> None:
        """Record that the worker was lost."""
        async with self.database.write() as session:
            await attempts.lose(session, self.attempt, "the node went away", max_lost=5)

    async def heartbeat(self, report: dict[str, Any], lease_s: float = 60, age_s: float = 0) -> None:
        """Record a renewal of the dispatcher's lease `age_s` seconds ago."""
        async with self.database.write() as session:
            assert await leases.acquire(session, "dispatcher", "dispatcher-1", lease_s, report)
            lease = await leases.get(session, "dispatcher")
            assert lease is not None
            lease.renewed_at -= timedelta(seconds=age_s)
