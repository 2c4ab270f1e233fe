"""Evaluations of checkpoints: idle workers compute them before they take the next job."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from service.artifacts import ArtifactStore
from service.dispatcher.cluster import DatasetError, WorkerGone
from service.dispatcher.datasets import Datasets
from service.dispatcher.leadership import Leadership, LeadershipLost
from service.dispatcher.pool import Pool, Slot
from service.errors import CorruptFile, StorageUnavailable
from service.store import DatabaseError, Session, evaluations
from service.store.tables import Checkpoint, Evaluation, Job
from worker.events import Evaluated, File

logger = logging.getLogger(__name__)

RETRY_S = 1.0
"""Pause before another try while the database or the artifact store is unavailable."""

Store = Callable[[Session], Awaitable[None]]


class Evaluations:
    """Lets idle workers compute the evaluations that were requested."""

    def __init__(self, artifacts: ArtifactStore, leadership: Leadership, datasets: Datasets, pool: Pool) -> None:
        self._artifacts, self._leadership, self._datasets, self._pool = artifacts, leadership, datasets, pool
        self._running: set[asyncio.Task[None]] = set()

    async def requeue(self) -> None:
        """Queue what an earlier dispatcher had begun."""
        async with self._leadership.write() as session:
            await evaluations.requeue(session)

    async def start(self, idle: Sequence[Slot]) -> int:
        """Start the next evaluations on idle workers, one on each. Returns how many it has started."""
        for number, slot in enumerate(idle):
            async with self._leadership.write() as session:
                claimed = await evaluations.claim(session)
            if claimed is None:
                return number
            evaluation, job, checkpoint = claimed
            self._pool.occupy(slot, job.id, evaluation.id)
            task = asyncio.create_task(self._run(evaluation, job, checkpoint, slot), name=evaluation.id)
            self._running.add(task)
            task.add_done_callback(self._ended)
        return len(idle)

    def stop(self) -> None:
        """Stop waiting for the workers. The next dispatcher queues their evaluations again."""
        for task in self._running:
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an evaluation is no longer followed: %s", error)

    async def _run(self, evaluation: Evaluation, job: Job, checkpoint: Checkpoint | None, slot: Slot) -> None:
        extra = {"job": job.id, "worker": slot.worker.name}
        store: Store
        try:
            result = await self._compute(evaluation, job, checkpoint, slot)
        except WorkerGone as error:
            logger.warning("evaluation lost: %s", error, extra=extra)
            self._pool.discard(slot)
            reason = str(error)
            await self._store(lambda session: evaluations.lose(session, evaluation.id, reason))
            return
        except (DatasetError, CorruptFile, EvaluationFailed) as error:
            reason = str(error)
            store = lambda session: evaluations.fail(session, evaluation.id, reason)  # noqa: E731
        else:
            store = lambda session: evaluations.succeed(session, evaluation.id, result)  # noqa: E731
        self._pool.give_back(slot)
        await self._store(store)

    async def _compute(self, evaluation: Evaluation, job: Job, checkpoint: Checkpoint | None, slot: Slot) -> Evaluated:
        if checkpoint is None:
            raise CorruptFile("the checkpoint no longer exists")
        dataset = await self._datasets.get(job.spec["dataset"]["name"], lambda _: None)
        expected = {name: File.model_validate(file) for name, file in checkpoint.files.items()}
        while True:
            try:
                files = await asyncio.to_thread(self._artifacts.read, job.id, checkpoint.id, expected)
                break
            except StorageUnavailable as error:
                logger.warning("a checkpoint cannot be read now: %s", error)
                await asyncio.sleep(RETRY_S)
        result = await slot.worker.evaluate(files, dataset, evaluation.request)
        if not isinstance(result, Evaluated):
            raise EvaluationFailed(result.message)
        return result

    async def _store(self, store: Store) -> None:
        """Write, as soon as the database is available."""
        while True:
            try:
                async with self._leadership.write() as session:
                    await store(session)
                return
            except LeadershipLost:
                raise
            except (DatabaseError, OSError) as error:
                logger.warning("an evaluation cannot be stored now: %s", error)
                await asyncio.sleep(RETRY_S)


class EvaluationFailed(Exception):
    """The worker has reported why it could not evaluate the checkpoint."""
