"""The dispatcher's loop: what is queued goes to workers, what people ask reaches them, what died is replaced."""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from service.artifacts import ArtifactStore
from service.dispatcher import seeding
from service.dispatcher.cluster import Cluster, ClusterGone, Node, Worker, WorkerGone, WorkerState
from service.dispatcher.datasets import Datasets
from service.dispatcher.following import REQUESTS, Follower
from service.dispatcher.leadership import Leadership
from service.dispatcher.pool import Pool, Slot
from service.jobs import Status
from service.settings import Settings
from service.store import Database, attempts, jobs
from service.store.attempts import FreeWorker, NotEnoughWorkers
from service.store.tables import Attempt, Job

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S = 2.0
"""How often the cluster is looked at."""
BUSY_SLOWDOWN = 5
"""While no worker is free, the database is asked so many times less often: the CPU belongs to the training."""
UNREACHABLE_CHECKS = 3
"""After so many failed looks in a row the cluster counts as gone."""


class Dispatcher:
    """The one active dispatcher."""

    def __init__(self, settings: Settings, database: Database, artifacts: ArtifactStore, cluster: Cluster) -> None:
        self._settings, self._database, self._artifacts, self._cluster = settings, database, artifacts, cluster
        self._leadership = Leadership(database, settings.dispatcher_lease_s, self._report)
        self._datasets = Datasets(cluster, settings.data_dir)
        self._woken = asyncio.Event()
        self._pool = Pool(cluster, settings, self._woken.set)
        self._following: dict[str, tuple[Follower, asyncio.Task[None]]] = {}
        self._cancelling_since: dict[str, float] = {}
        self._nodes: Sequence[Node] = ()
        self._next_up: NotEnoughWorkers | None = None
        self._connected = False

    async def run(self) -> None:
        """Dispatch for ever. Raises `LeadershipLost`, or `ClusterGone` when Ray went away: start anew then."""
        await self._leadership.acquire()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._leadership.keep())
                await self._connect()
                await self._reconcile()
                tasks.create_task(self._watch_cluster())
                tasks.create_task(seeding.keep(self._database, self._leadership))
                await self._dispatch()
        finally:
            self._pool.stop()
            for _, task in self._following.values():
                task.cancel()
            await self._leadership.release()
            self._cluster.disconnect()

    async def _connect(self) -> None:
        """Wait for Ray. Once the workers' leases have run out, what they had is queued again."""
        began = time.monotonic()
        while not self._connected:
            try:
                await self._cluster.connect()
                self._nodes = await self._cluster.nodes()
                self._connected = True
                logger.info("connected to Ray", extra={"address": self._cluster.address})
            except ClusterGone as error:
                logger.warning("%s", error)
                if time.monotonic() - began > self._settings.worker_lease_s:
                    await self._lose_all(str(error))
                await asyncio.sleep(CHECK_INTERVAL_S / 2)

    async def _lose_all(self, reason: str) -> None:
        async with self._database.write() as session:
            await self._leadership.assert_held(session)
            for _, attempt in await attempts.active(session):
                await attempts.lose(session, attempt.id, reason, self._settings.max_lost)

    async def _reconcile(self) -> None:
        """Find out what earlier dispatchers left: attempts that go on are followed, the others are queued again."""
        async with self._database.read() as session:
            active = {attempt.id: (job, attempt) for job, attempt in await attempts.active(session)}
        workers = await self._cluster.workers()
        states = await asyncio.gather(*(worker.describe() for worker in workers), return_exceptions=True)
        held: dict[str, dict[str, tuple[Worker, WorkerState]]] = {}
        for worker, state in zip(workers, states, strict=True):
            if isinstance(state, WorkerGone):
                logger.warning("worker ended: %s", state, extra={"worker": worker.name})
                worker.kill()
            elif isinstance(state, BaseException):
                raise state
            elif state.attempt_id is not None and state.attempt_id in active:
                held.setdefault(state.attempt_id, {})[worker.name] = worker, state
            elif state.finished:
                self._pool.adopt(worker, state, busy=False)
            else:
                logger.warning("worker ended: it trains what nobody waits for", extra={"worker": worker.name})
                worker.kill()
        for attempt_id, (job, attempt) in active.items():
            found = held.get(attempt_id, {})
            names = [entry["worker"] for entry in attempt.workers]
            if not (gone := [name for name in names if name not in found]):
                logger.info(
                    "attempt goes on",
                    extra={"job": job.id, "attempt": attempt.id, "worker": attempt.workers[0]["worker"]},
                )
                self._follow(job, attempt, [self._pool.adopt(*found[name], busy=True) for name in names], adopted=True)
                continue
            logger.warning("attempt lost", extra={"job": job.id, "attempt": attempt.id})
            # Workers that wait for one that is gone wait in vain.
            for worker, _ in found.values():
                worker.kill()
            async with self._database.write() as session:
                await self._leadership.assert_held(session)
                reason = f"worker {', '.join(gone)} was gone when the dispatcher came back"
                await attempts.lose(session, attempt.id, reason, self._settings.max_lost)
        await self._remove_orphans()

    async def _remove_orphans(self) -> None:
        """Remove the files of jobs that were deleted, and what an interrupted write left."""
        stored = await asyncio.to_thread(self._artifacts.list_jobs)
        async with self._database.read() as session:
            existing = await jobs.with_artifacts(session, stored)
        for job_id in stored:
            if job_id in existing:
                await asyncio.to_thread(self._artifacts.remove_temporary, job_id)
            else:
                await asyncio.to_thread(self._artifacts.delete_job, job_id)

    async def _watch_cluster(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self._cluster.check()
                self._nodes = await self._cluster.nodes()
                failures = 0
            except ClusterGone:
                failures += 1
                if failures >= UNREACHABLE_CHECKS:
                    self._connected = False
                    raise

    async def _dispatch(self) -> None:
        while True:
            try:
                waiting = await self._look()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("the database does not answer: %s", error)
                await asyncio.sleep(CHECK_INTERVAL_S / 2)
                continue
            self._pool.adjust(waiting, self._capacity)
            interval = self._settings.dispatch_interval_s
            await self._sleep(interval if self._pool.ready() else BUSY_SLOWDOWN * interval)

    async def _look(self) -> int:
        """One look at the database: requests are passed on, queued jobs given out.

        Returns how many workers the jobs that still wait need.
        """
        async with self._database.read() as session:
            most = self._pool.ceiling(self._capacity)
            pending = await attempts.pending(session, max(most, self._capacity) + 1, most)
        for job in pending:
            if job.status in REQUESTS:
                await self._pass_on(job.job_id, job.status)
        waiting = sum(job.num_workers for job in pending if job.status is Status.QUEUED)
        if not waiting:
            self._next_up = None
        while waiting > 0 and (free := self._pool.ready()) and (taken := await self._claim(free)):
            waiting -= taken
        return waiting

    async def _claim(self, free: Sequence[Slot]) -> int:
        """Give out the next job; returns how many workers it took."""
        workers = [FreeWorker(slot.worker.name, slot.node) for slot in free]
        next_up = self._next_up.job_id if self._next_up else None
        async with self._database.write() as session:
            await self._leadership.assert_held(session)
            claimed = await attempts.claim(session, workers, slots=self._room, next_up=next_up)
        self._next_up = claimed if isinstance(claimed, NotEnoughWorkers) else None
        if claimed is None or isinstance(claimed, NotEnoughWorkers):
            return 0
        job, attempt = claimed
        logger.info(
            "attempt begins", extra={"job": job.id, "attempt": attempt.id, "worker": attempt.workers[0]["worker"]}
        )
        self._follow(job, attempt, free[: job.num_workers])
        return job.num_workers

    def _follow(self, job: Job, attempt: Attempt, slots: Sequence[Slot], *, adopted: bool = False) -> None:
        for slot in slots:
            self._pool.occupy(slot, job.id, attempt.id)
        follower = Follower(
            job,
            attempt,
            slots,
            pool=self._pool,
            database=self._database,
            artifacts=self._artifacts,
            datasets=self._datasets,
            leadership=self._leadership,
            settings=self._settings,
        )
        task = asyncio.create_task(follower.run(adopted=adopted), name=attempt.id)
        self._following[job.id] = (follower, task)
        task.add_done_callback(lambda task: self._followed(job.id, task))

    def _followed(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._following.pop(job_id, None)
        self._cancelling_since.pop(job_id, None)
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an attempt is no longer followed: %s", error, extra={"job": job_id})

    async def _pass_on(self, job_id: str, status: Status) -> None:
        if job_id not in self._following:
            return
        follower, _ = self._following[job_id]
        await follower.request(REQUESTS[status])
        if status is Status.CANCELLING:
            since = self._cancelling_since.setdefault(job_id, time.monotonic())
            if time.monotonic() - since > self._settings.worker_grace_s:
                logger.warning("worker ended: it does not cancel", extra={"job": job_id})
                follower.kill()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    @property
    def _capacity(self) -> int:
        return sum(node.slots for node in self._nodes)

    @property
    def _room(self) -> int:
        """Workers that can be there at once today."""
        return min(self._capacity, self._pool.ceiling(self._capacity))

    def _report(self) -> dict[str, Any]:
        workers = self._pool.report()
        busy = sum(worker["state"] == "busy" for worker in workers)
        status = "connected" if self._connected else "unreachable"
        return {
            "time": datetime.now(UTC).isoformat(),
            "ray": {"status": status, "address": self._cluster.address},
            "slots": {"total": self._room, "busy": busy, "free": max(0, self._room - busy)},
            "nodes": [
                {"id": node.id, "address": node.address, "cpus": node.cpus, "gpus": node.gpus, "alive": True}
                for node in self._nodes
            ],
            "workers": workers,
            "next_up": self._next_up and {"job": self._next_up.job_id, "num_workers": self._next_up.num_workers},
        }
