"""Following one attempt, from its start on a worker to its end in the database."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy.exc import SQLAlchemyError

from service.artifacts import ArtifactStore
from service.dispatcher.cluster import DatasetError, Report, Request, WorkerGone
from service.dispatcher.datasets import Datasets
from service.dispatcher.gang import POLL_WAIT_S, Gang, verdict
from service.dispatcher.leadership import Leadership, LeadershipLost
from service.dispatcher.pool import Pool, Slot
from service.errors import CorruptFile, StorageFull, StorageUnavailable
from service.jobs import Status
from service.settings import Settings
from service.store import Database, attempts, checkpoints, events
from service.store.tables import Attempt, Job
from worker.events import CheckpointTaken, Event, Failure, File, Finished
from worker.spec import DatasetName

logger = logging.getLogger(__name__)

DATABASE_RETRY_S = 1.0
STORAGE_TRIES = 3
STORAGE_RETRY_S = 2.0


class NotStarted(Exception):
    """Cancelled while it still waited for its dataset or its checkpoint."""


class Follower:
    """One attempt: starts it, writes down what it reports, passes requests on, and sees to its end.

    On several workers all are followed: each poll renews a lease, the first one's reports are written down, and the
    death of one is the end of the attempt.
    """

    def __init__(
        self,
        job: Job,
        attempt: Attempt,
        slots: Sequence[Slot],
        *,
        pool: Pool,
        database: Database,
        artifacts: ArtifactStore,
        datasets: Datasets,
        leadership: Leadership,
        settings: Settings,
    ) -> None:
        self.job_id, self.attempt_id = job.id, attempt.id
        self._slots = slots
        self._first = slots[0].worker
        self._spec = job.spec
        self._recorded = attempt.last_seq
        self._pool, self._database, self._artifacts, self._datasets = pool, database, artifacts, datasets
        self._leadership, self._settings = leadership, settings
        self._requested: Request | None = None
        self._loading: asyncio.Task[Any] | None = None
        self._writing = asyncio.Lock()
        self._gang = Gang([slot.worker for slot in slots], attempt.id, job.spec)
        self._log = logging.LoggerAdapter(
            logger, {"job": job.id, "attempt": attempt.id, "worker": attempt.workers[0]["worker"]}
        )

    async def run(self, *, adopted: bool = False) -> None:
        """See the attempt through; its workers are free or gone afterwards. Raises `LeadershipLost`."""
        try:
            if not adopted:
                await self._prepare()
            if len(self._slots) > 1:
                await self._follow_all(adopted=adopted)
                return
            if not adopted:
                await self._first.start(self.attempt_id, self._spec, self._dataset, self._checkpoint)
                await self._repeat_request()
            await self._follow()
        except NotStarted:
            self._give_back()
            await self._end("lost", "cancelled before it began")
        except WorkerGone as error:
            self._log.warning("worker lost: %s", error)
            self._discard()
            await self._end("lost", str(error))
        except (DatasetError, StorageFull, CorruptFile) as error:
            self._log.warning("attempt failed: %s", error)
            code = "dataset" if isinstance(error, DatasetError) else "checkpoint"
            # Whatever still runs there must not go on unseen; a new worker is ready in seconds.
            if code == "checkpoint":
                self._discard()
            await self._end("failed", Failure.model_validate({"code": code, "message": str(error), "may_pass": False}))
            if code == "dataset":
                self._give_back()
        except attempts.Fenced as error:
            self._log.warning("report refused: %s", error)
            self._discard()
        except LeadershipLost:
            raise
        except Exception as error:
            # A defect of ours must not leave the job running in the books and its worker taken.
            self._log.exception("the dispatcher failed at this attempt")
            self._discard()
            message = f"the dispatcher failed at this attempt: {error!r}"
            await self._end("failed", Failure(code="exception", message=message, may_pass=True))
        else:
            self._give_back()

    async def request(self, request: Request) -> None:
        """Pass a request of a person on to the first worker, once: what is asked of it is asked of all."""
        if self._requested in (request, "cancel"):
            return
        self._requested = request
        if self._loading is not None and request == "cancel":
            self._loading.cancel()
        with suppress(WorkerGone):
            await self._first.request(self.attempt_id, request)

    def kill(self) -> None:
        """End all its workers at once."""
        for slot in self._slots:
            slot.worker.kill()

    def _give_back(self) -> None:
        for slot in self._slots:
            self._pool.give_back(slot)

    def _discard(self) -> None:
        for slot in self._slots:
            self._pool.discard(slot)

    async def _prepare(self) -> None:
        self._dataset = await self._load_dataset()
        self._checkpoint = await self._latest_checkpoint()

    async def _repeat_request(self) -> None:
        """Ask for what was asked before there was anybody to ask."""
        if self._requested is not None:
            await self._first.request(self.attempt_id, self._requested)

    async def _follow_all(self, *, adopted: bool) -> None:
        """Follow every worker to its end, or to that of the attempt."""
        starting = None if adopted else self._gang.starting(self._dataset, self._checkpoint, self._repeat_request)
        endings = await self._gang.see_through(starting, self._follow, self._writing)
        decided = verdict(endings)
        # Who has not ended, or can no longer be told, must not train on beside the attempt that comes next.
        kept = [slot for rank, slot in enumerate(self._slots) if self._gang.is_whole(rank, slot.device)]
        for slot in self._slots:
            if slot not in kept:
                self._pool.discard(slot)
        match decided:
            case Finished():
                await self._record_end(decided)
            case Failure():
                self._log.warning("attempt failed: %s", decided.message)
                await self._end("failed", decided)
            case WorkerGone():
                self._log.warning("worker lost: %s", decided)
                await self._end("lost", str(decided))
        for slot in kept:
            self._pool.give_back(slot)

    async def _load_dataset(self) -> Any:
        name = cast(DatasetName, self._spec["dataset"]["name"])
        self._loading = asyncio.ensure_future(self._datasets.get(name, self._tell))
        try:
            return await self._loading
        except asyncio.CancelledError:
            if self._requested == "cancel":
                raise NotStarted from None
            raise
        finally:
            self._loading = None

    async def _latest_checkpoint(self) -> Mapping[str, bytes] | None:
        """The files of the newest checkpoint that is whole; one that is not is passed over, and said to be."""
        async with self._database.read() as session:
            candidates = await checkpoints.of_job(session, self.job_id)
        for checkpoint in candidates:
            expected = {name: File.model_validate(file) for name, file in checkpoint.files.items()}
            try:
                return await self._read(checkpoint.id, expected)
            except CorruptFile as error:
                await self._write_log(f"not resumed from the checkpoint at step {checkpoint.step}: {error}", "warning")
        return None

    async def _read(self, checkpoint_id: str, expected: Mapping[str, File]) -> Mapping[str, bytes]:
        """The files of a checkpoint, as soon as the store answers: that it is away costs the job no attempt."""
        while True:
            try:
                return await asyncio.to_thread(self._artifacts.read, self.job_id, checkpoint_id, expected)
            except StorageUnavailable as error:
                if self._requested == "cancel":
                    raise NotStarted from None
                self._log.warning("not resumed, will try again: %s", error)
                await asyncio.sleep(DATABASE_RETRY_S)

    async def _follow(self) -> Finished:
        """Write down what the first worker reports, and return its last report.

        Of several workers that one is not written down: how the attempt ended is for all of them to say.
        """
        while True:
            report = await self._first.poll(self.attempt_id, self._recorded, POLL_WAIT_S)
            if not report.events:
                continue
            last = report.events[-1]
            ended = last if isinstance(last, Finished) else None
            events = report.events[:-1] if ended and len(self._slots) > 1 else report.events
            async with self._writing:
                try:
                    await self._record(events, await self._store_checkpoints(report))
                except (SQLAlchemyError, OSError) as error:
                    # Nothing is acknowledged: the worker keeps it; the next poll renews its lease and brings it again.
                    self._log.warning("not recorded, will try again: %s", error)
                    await asyncio.sleep(DATABASE_RETRY_S)
                    continue
            if events:
                self._recorded = events[-1].seq
            if ended is not None:
                return ended

    async def _record_end(self, finished: Finished) -> None:
        while True:
            try:
                await self._record([finished], {})
                return
            except attempts.Fenced:
                return
            except (SQLAlchemyError, OSError) as error:
                self._log.warning("not recorded, will try again: %s", error)
                await asyncio.sleep(DATABASE_RETRY_S)

    async def _record(self, reported: Sequence[Event], stored: Mapping[int, str]) -> None:
        async with self._database.write() as session:
            await self._leadership.assert_held(session)
            job = await attempts.record(session, self.attempt_id, reported, stored)
            superfluous = []
            if stored:
                rows = await checkpoints.of_job(session, self.job_id)
                superfluous = [c.id for c in checkpoints.superfluous(rows, job.spec["checkpoint"]["keep_last"])]
                await checkpoints.remove(session, superfluous)
        for checkpoint_id in superfluous:
            await asyncio.to_thread(self._artifacts.delete_checkpoint, self.job_id, checkpoint_id)

    async def _store_checkpoints(self, report: Report) -> Mapping[int, str]:
        stored: dict[int, str] = {}
        for event in report.events:
            if isinstance(event, CheckpointTaken):
                files = await self._first.fetch(report.checkpoints[event.seq])
                # An id that follows from what it is: a second try writes the same checkpoint, not another one.
                checkpoint_id = f"checkpoint_{self.attempt_id.removeprefix('attempt_')}{event.step:09}"
                await self._store(checkpoint_id, files, event)
                stored[event.seq] = checkpoint_id
        return stored

    async def _store(self, checkpoint_id: str, files: Mapping[str, bytes], event: CheckpointTaken) -> None:
        for tries_left in reversed(range(STORAGE_TRIES)):
            try:
                await asyncio.to_thread(self._artifacts.write, self.job_id, checkpoint_id, files, event.files)
            except StorageFull as error:
                await self._write_log(str(error), "error")
                if not tries_left:
                    raise
                await asyncio.sleep(STORAGE_RETRY_S)
            else:
                return

    async def _end(self, how: str, why: Any) -> None:
        """Write the end of an attempt whose worker cannot report it, as soon as the database takes it."""
        while True:
            try:
                async with self._database.write() as session:
                    await self._leadership.assert_held(session)
                    if how == "lost":
                        await attempts.lose(session, self.attempt_id, why, self._settings.max_lost)
                    else:
                        await attempts.fail(session, self.attempt_id, why)
                return
            except attempts.Fenced:
                return
            except (SQLAlchemyError, OSError) as error:
                self._log.warning("not recorded, will try again: %s", error)
                await asyncio.sleep(DATABASE_RETRY_S)

    def _tell(self, message: str) -> None:
        task = asyncio.ensure_future(self._write_log(message, "info"))
        task.add_done_callback(lambda done: done.exception())

    async def _write_log(self, message: str, level: str) -> None:
        data = {"level": level, "message": message}
        with suppress(SQLAlchemyError, OSError):
            async with self._database.write() as session:
                await events.add(session, self.job_id, "log", data, datetime.now(UTC), attempt_id=self.attempt_id)


REQUESTS: dict[Status, Request] = {Status.PAUSING: "pause", Status.CANCELLING: "cancel"}
"""What each state asks of the worker."""
