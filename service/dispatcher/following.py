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
from service.dispatcher.leadership import Leadership, LeadershipLost
from service.dispatcher.pool import Pool, Slot
from service.errors import CorruptFile, StorageFull
from service.jobs import Status
from service.settings import Settings
from service.store import Database, attempts, checkpoints, events
from service.store.tables import Attempt, Job
from worker.events import CheckpointTaken, Event, Failure, File, Finished
from worker.spec import DatasetName

logger = logging.getLogger(__name__)

POLL_WAIT_S = 2.0
DATABASE_RETRY_S = 1.0
STORAGE_TRIES = 3
STORAGE_RETRY_S = 2.0


class NotStarted(Exception):
    """Cancelled while it still waited for its dataset."""


class Follower:
    """One attempt: starts it, writes down what it reports, passes requests on, and sees to its end."""

    def __init__(
        self,
        job: Job,
        attempt: Attempt,
        slot: Slot,
        *,
        pool: Pool,
        database: Database,
        artifacts: ArtifactStore,
        datasets: Datasets,
        leadership: Leadership,
        settings: Settings,
    ) -> None:
        self.job_id, self.attempt_id, self.slot = job.id, attempt.id, slot
        self._spec = job.spec
        self._recorded = attempt.last_seq
        self._pool, self._database, self._artifacts, self._datasets = pool, database, artifacts, datasets
        self._leadership, self._settings = leadership, settings
        self._requested: Request | None = None
        self._loading: asyncio.Task[Any] | None = None
        self._log = logging.LoggerAdapter(logger, {"job": job.id, "attempt": attempt.id, "worker": slot.worker.name})

    async def run(self, *, adopted: bool = False) -> None:
        """See the attempt through; the worker is free or gone afterwards. Raises `LeadershipLost`."""
        try:
            if not adopted:
                await self._start()
            await self._follow()
        except NotStarted:
            self._pool.give_back(self.slot)
            await self._end("lost", "cancelled before it began")
        except WorkerGone as error:
            self._log.warning("worker lost: %s", error)
            self._pool.discard(self.slot)
            await self._end("lost", str(error))
        except (DatasetError, StorageFull, CorruptFile) as error:
            self._log.warning("attempt failed: %s", error)
            code = "dataset" if isinstance(error, DatasetError) else "checkpoint"
            # Whatever still runs there must not go on unseen; a new worker is ready in seconds.
            if code == "checkpoint":
                self._pool.discard(self.slot)
            await self._end("failed", Failure.model_validate({"code": code, "message": str(error), "may_pass": False}))
            if code == "dataset":
                self._pool.give_back(self.slot)
        except attempts.Fenced as error:
            self._log.warning("report refused: %s", error)
            self._pool.discard(self.slot)
        except LeadershipLost:
            raise
        except Exception as error:
            # A defect of ours must not leave the job running in the books and its worker taken.
            self._log.exception("the dispatcher failed at this attempt")
            self._pool.discard(self.slot)
            message = f"the dispatcher failed at this attempt: {error!r}"
            await self._end("failed", Failure(code="exception", message=message, may_pass=True))
        else:
            self._pool.give_back(self.slot)

    async def request(self, request: Request) -> None:
        """Pass a request of a person on to the worker, once."""
        if self._requested in (request, "cancel"):
            return
        self._requested = request
        if self._loading is not None and request == "cancel":
            self._loading.cancel()
        with suppress(WorkerGone):
            await self.slot.worker.request(self.attempt_id, request)

    async def _start(self) -> None:
        dataset = await self._load_dataset()
        files = await self._latest_checkpoint()
        await self.slot.worker.start(self.attempt_id, self._spec, dataset, files)
        if self._requested is not None:
            await self.slot.worker.request(self.attempt_id, self._requested)

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
                return await asyncio.to_thread(self._artifacts.read, self.job_id, checkpoint.id, expected)
            except CorruptFile as error:
                await self._write_log(f"not resumed from the checkpoint at step {checkpoint.step}: {error}", "warning")
        return None

    async def _follow(self) -> None:
        finished = False
        while not finished:
            report = await self.slot.worker.poll(self.attempt_id, self._recorded, POLL_WAIT_S)
            if not report.events:
                continue
            try:
                stored = await self._store_checkpoints(report)
                await self._record(report.events, stored)
            except (SQLAlchemyError, OSError) as error:
                # Nothing is acknowledged: the worker keeps it, and the next poll renews its lease and brings it again.
                self._log.warning("not recorded, will try again: %s", error)
                await asyncio.sleep(DATABASE_RETRY_S)
                continue
            self._recorded = report.events[-1].seq
            finished = isinstance(report.events[-1], Finished)

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
                files = await self.slot.worker.fetch(report.checkpoints[event.seq])
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
