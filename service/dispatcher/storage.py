"""What one attempt reads from and writes to the database and the artifact store."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from service.artifacts import ArtifactStore
from service.dispatcher.cluster import WorkerGone
from service.dispatcher.leadership import Leadership
from service.dispatcher.orphans import checkpoint_id, remove_orphans_of
from service.dispatcher.outcome import Outcome
from service.errors import CorruptFile, StorageFull, StorageUnavailable
from service.experiments.precision import Resolution, Workload
from service.store import Database, DatabaseError, Session, attempts, checkpoints, events, precisions
from service.store.tables import Attempt, Checkpoint, Job
from worker.events import CheckpointTaken, Event, Failure, File, Finished, LogLevel, Precision

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""Pause before another try while the database or the artifact store is unavailable."""
STORAGE_FULL_TRIES = 3
STORAGE_FULL_RETRY_S = 2.0

Result = TypeVar("Result")
Files = Mapping[str, bytes]


class AttemptStorage:
    """The rows and checkpoints of one attempt.

    While the database or the artifact store is unavailable, every method except `log` waits for it. Once another
    dispatcher is active, a method that writes raises `LeadershipLost`.
    """

    def __init__(
        self, attempt: Attempt, database: Database, artifacts: ArtifactStore, leadership: Leadership, max_lost: int
    ) -> None:
        self._job_id, self._attempt_id = attempt.job_id, attempt.id
        self._database, self._artifacts, self._leadership = database, artifacts, leadership
        self._max_lost = max_lost
        self._logging: set[asyncio.Task[None]] = set()
        self._log = logging.LoggerAdapter(logger, {"job": attempt.job_id, "attempt": attempt.id})

    async def latest_checkpoint(self, extended: str | None = None) -> Files | None:
        """Read the newest checkpoint of the job whose files are intact. A damaged one is logged and skipped.

        Args:
            extended: The checkpoint of the job that this one continues, which is older than its own.
        """

        async def find() -> Sequence[Checkpoint]:
            async with self._database.read() as session:
                found = [*await checkpoints.of_job(session, self._job_id)]
                if extended is not None and (last := await checkpoints.find(session, extended)) is not None:
                    found.append(last)
                return found

        candidates = await self._until_available("not resumed", find)
        for candidate in candidates:
            try:
                read = partial(self._read, candidate)
                return await self._until_available("not resumed", read, unavailable=StorageUnavailable)
            except CorruptFile as error:
                await self.log(f"did not resume from the checkpoint at step {candidate.step}: {error}", "warning")
        return None

    async def checkpoint(self, checkpoint_id: str) -> Files:
        """Read a checkpoint of any job.

        Raises:
            CorruptFile: If it does not exist, or a file of it is missing or damaged.
        """

        async def find() -> Checkpoint | None:
            async with self._database.read() as session:
                return await checkpoints.find(session, checkpoint_id)

        found = await self._until_available("not started", find)
        if found is None:
            raise CorruptFile(f"init_from is {checkpoint_id}, but there is no such checkpoint any more")
        return await self._until_available("not started", partial(self._read, found), unavailable=StorageUnavailable)

    async def workloads(self, job: Job) -> Mapping[Workload, int]:
        """The number of jobs, by model and batch size, that get one precision with this job."""

        async def read() -> Mapping[Workload, int]:
            async with self._database.read() as session:
                return await precisions.workloads(session, job)

        return await self._until_available("its precision is not resolved", read)

    async def resolve_precision(self, found: Resolution) -> Precision:
        """Store what the precision `auto` of the job is resolved to, unless it was resolved before; return which it is.

        Raises:
            Fenced: If the attempt is not the current one of its job.
        """

        async def store() -> Precision:
            async with self._leadership.write() as session:
                resolved = await attempts.resolve_precision(session, self._attempt_id, found.precision)
                if resolved == found.precision:
                    await self._add_line(session, f"the precision auto is resolved to {found.reason}", "info")
                return resolved

        return await self._until_available("its precision is not stored", store)

    async def record(
        self,
        reported: Sequence[Event],
        fetch: Callable[[int], Awaitable[Files]],
        *,
        keep_last: int,
        exclusive: asyncio.Lock,
        before_retry: Callable[[], Awaitable[None]],
    ) -> None:
        """Store the checkpoints among the reported events, then record all events in one transaction.

        Args:
            reported: Events of the attempt, in order.
            fetch: Returns the files of the checkpoint with a sequence number.
            keep_last: The number of checkpoints that the job keeps beside its best one.
            exclusive: Held during each try, and not between them.
            before_retry: Called before every further try.

        Raises:
            Fenced: If the attempt is not the current one of its job.
            StorageFull: If the artifact store stays without room for a checkpoint.
        """

        async def store() -> None:
            async with exclusive:
                await self._record(reported, await self._store_checkpoints(reported, fetch), keep_last)

        await self._until_available("not recorded", store, before_retry)

    async def end(self, outcome: Outcome) -> None:
        """Record the end of the attempt, unless the job has another attempt by now; remove its files without a row."""

        async def store() -> None:
            async with self._leadership.write() as session:
                match outcome:
                    case Finished():
                        await attempts.record(session, self._attempt_id, [outcome], {})
                    case Failure():
                        await attempts.fail(session, self._attempt_id, outcome)
                    case WorkerGone():
                        await attempts.lose(session, self._attempt_id, str(outcome), self._max_lost)

        try:
            await self._until_available("not recorded", store)
        except attempts.Fenced as error:
            self._log.warning("the end of the attempt is not recorded: %s", error)
        with suppress(DatabaseError):
            await remove_orphans_of(self._database, self._artifacts, self._job_id, self._attempt_id)

    async def log(self, message: str, level: LogLevel) -> None:
        """Add a line to the log of the job. It is lost if the database is unavailable."""
        with suppress(DatabaseError, OSError):
            async with self._leadership.write() as session:
                await self._add_line(session, message, level)

    async def _add_line(self, session: Session, message: str, level: LogLevel) -> None:
        data = {"level": level, "message": message}
        await events.add(session, self._job_id, "log", data, datetime.now(UTC), attempt_id=self._attempt_id)

    def log_soon(self, message: str) -> None:
        """Add a line to the log of the job in the background."""
        task = asyncio.create_task(self.log(message, "info"))
        self._logging.add(task)
        task.add_done_callback(self._logged)

    def _logged(self, task: asyncio.Task[None]) -> None:
        self._logging.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.warning("a line is missing from the log of the job: %s", error)

    async def _until_available(
        self,
        consequence: str,
        access: Callable[[], Awaitable[Result]],
        before_retry: Callable[[], Awaitable[None]] | None = None,
        *,
        unavailable: type[Exception] | tuple[type[Exception], ...] = (DatabaseError, OSError),
    ) -> Result:
        """Repeat `access` until neither the database nor the artifact store is unavailable.

        Raises:
            StorageFull: If the artifact store is full at `STORAGE_FULL_TRIES` tries.
        """
        full = 0
        while True:
            try:
                return await access()
            except StorageFull as error:
                full += 1
                await self.log(str(error), "error")
                if full == STORAGE_FULL_TRIES:
                    raise
                pause_s = STORAGE_FULL_RETRY_S
            except unavailable as error:
                self._log.warning("%s, will try again: %s", consequence, error)
                pause_s = RETRY_S
            await asyncio.sleep(pause_s)
            if before_retry is not None:
                await before_retry()

    async def _read(self, checkpoint: Checkpoint) -> Files:
        expected = {name: File.model_validate(file) for name, file in checkpoint.files.items()}
        return await asyncio.to_thread(self._artifacts.read, checkpoint.job_id, checkpoint.id, expected)

    async def _store_checkpoints(
        self, reported: Sequence[Event], fetch: Callable[[int], Awaitable[Files]]
    ) -> Mapping[int, str]:
        stored: dict[int, str] = {}
        for event in reported:
            if isinstance(event, CheckpointTaken):
                files = await fetch(event.seq)
                stored[event.seq] = id_ = checkpoint_id(self._attempt_id, event.step)
                await asyncio.to_thread(self._artifacts.write, self._job_id, id_, files, event.files)
        return stored

    async def _record(self, reported: Sequence[Event], stored: Mapping[int, str], keep_last: int) -> None:
        superfluous: list[str] = []
        async with self._leadership.write() as session:
            await attempts.record(session, self._attempt_id, reported, stored)
            if stored:
                rows = await checkpoints.of_job(session, self._job_id)
                kept = await checkpoints.needed(session, self._job_id)
                superfluous = [row.id for row in checkpoints.superfluous(rows, keep_last) if row.id not in kept]
                await checkpoints.remove(session, superfluous)
        for id_ in superfluous:
            await asyncio.to_thread(self._artifacts.delete_checkpoint, self._job_id, id_)
