"""The dispatcher: starts queued jobs on free workers, forwards requests to running ones, watches the cluster."""

import asyncio
import logging
import math
import time
from collections.abc import Sequence

from service.artifacts import ArtifactStore
from service.cluster_report import ClusterReport, NextUp, NodeReport, RayReport, SlotsReport
from service.dispatcher import retention, seeding, webhooks
from service.dispatcher.attempt import AttemptRun
from service.dispatcher.cluster import (
    Actor,
    Cluster,
    ClusterGone,
    ClusterSilent,
    Request,
    Worker,
    WorkerGone,
    WorkerState,
)
from service.dispatcher.datasets import Datasets
from service.dispatcher.evaluations import Evaluations
from service.dispatcher.leadership import Leadership
from service.dispatcher.nodes import Node, room_problem
from service.dispatcher.orphans import remove_orphans
from service.dispatcher.pool import Pool, Slot
from service.dispatcher.precisions import Precisions
from service.dispatcher.quotas import Quotas
from service.dispatcher.storage import AttemptStorage
from service.jobs import Status
from service.settings import Settings
from service.store import Channel, Database, DatabaseError, attempts, evaluations
from service.store.attempts import FreeWorker, NotEnoughWorkers
from service.store.tables import Attempt, Job

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S = 2.0
"""Pause between two checks of the cluster."""
CONNECT_PAUSE_S = 0.25
"""Pause between two tries to connect to Ray."""
UNREACHABLE_CHECKS = 3
"""Number of failed checks in a row after which the cluster counts as gone."""
STOP_S = 3.0
"""Time that the attempts get to end their transactions when the dispatcher stops."""
REQUESTS: dict[Status, Request] = {Status.PAUSING: "pause", Status.CANCELLING: "cancel"}
"""The request to the workers of a job in each of these states."""


class Dispatcher:
    """The active dispatcher, or one that stands by until it is."""

    def __init__(self, settings: Settings, database: Database, artifacts: ArtifactStore, cluster: Cluster) -> None:
        self._settings, self._database, self._artifacts, self._cluster = settings, database, artifacts, cluster
        self._leadership = Leadership(database, settings.dispatcher_lease_s, self._report)
        self._datasets = Datasets(cluster, settings.data_dir)
        self._woken, self._attempt_ended = asyncio.Event(), asyncio.Event()
        self._pool = Pool(cluster, settings, self._woken.set)
        self._precisions = Precisions(self._pool)
        self._quotas = Quotas(settings)
        self._evaluations = Evaluations(artifacts, self._leadership, self._datasets, self._pool)
        self._running: dict[str, tuple[AttemptRun, asyncio.Task[None]]] = {}
        self._nodes: Sequence[Node] = ()
        self._next_up: NotEnoughWorkers | None = None
        self._connected = False

    async def run(self) -> None:
        """Dispatch jobs forever.

        Raises:
            LeadershipLost: If another dispatcher is active.
            ClusterGone: If Ray is unreachable. In both cases the process has to be started again.
        """
        await self._leadership.acquire()
        try:
            async with self._database.listen(Channel.QUEUE, self._woken.set), asyncio.TaskGroup() as tasks:
                tasks.create_task(self._leadership.keep())
                await self._connect()
                await self._reconcile()
                await self._evaluations.requeue()
                tasks.create_task(self._watch_cluster())
                tasks.create_task(self._pool.watch())
                tasks.create_task(seeding.keep(self._database, self._leadership, self._attempt_ended))
                tasks.create_task(webhooks.keep(self._settings, self._database, self._leadership))
                tasks.create_task(retention.keep(self._settings, self._database, self._artifacts, self._leadership))
                await self._dispatch()
        finally:
            self._pool.stop()
            self._evaluations.stop()
            running = [task for _, task in self._running.values()]
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running, timeout=STOP_S)
            await self._leadership.release()
            await self._cluster.disconnect()

    async def _connect(self) -> None:
        """Wait for Ray. Once the leases of the workers have expired, queue the jobs they had."""
        began = time.monotonic()
        cancelling: dict[str, float] = {}
        said = ""
        while not self._connected:
            try:
                await self._cluster.connect()
                self._nodes, _ = await self._cluster.survey()
                self._connected = True
                logger.info("connected to Ray", extra={"address": self._cluster.address})
            except (ClusterGone, ClusterSilent) as error:
                if str(error) != said:
                    said = str(error)
                    logger.warning("%s", error)
                expired = time.monotonic() - began > self._settings.worker_lease_s
                try:
                    await self._lose_without_ray(str(error), cancelling, everything=expired)
                except (DatabaseError, OSError) as unavailable:
                    logger.warning("the database does not answer: %s", unavailable)
                await asyncio.sleep(CONNECT_PAUSE_S)

    async def _lose_without_ray(self, reason: str, cancelling: dict[str, float], *, everything: bool) -> None:
        """End the attempts that can no longer be followed: all, or those that were to be cancelled long enough ago.

        Args:
            reason: Why they are lost.
            cancelling: When each attempt was first seen to be cancelled; it is updated.
            everything: Whether the leases of all workers have expired.
        """
        async with self._database.read() as session:
            active = await attempts.active(session)
        for job, attempt in active:
            if job.status is Status.CANCELLING:
                cancelling.setdefault(attempt.id, time.monotonic())
            since = cancelling.get(attempt.id, math.inf)
            if everything or time.monotonic() - since > self._settings.worker_grace_s:
                async with self._leadership.write() as session:
                    await attempts.lose(session, attempt.id, reason, self._settings.max_lost)

    async def _reconcile(self) -> None:
        """Adopt the attempts of earlier dispatchers whose workers are all alive; queue the jobs of the others."""
        async with self._database.read() as session:
            active = {attempt.id: (job, attempt) for job, attempt in await attempts.active(session)}
        _, actors = await self._cluster.survey()
        states = await asyncio.gather(*map(self._describe, actors))
        held: dict[str, dict[str, tuple[Worker, WorkerState]]] = {}
        for actor, described in zip(actors, states, strict=True):
            if described is None:
                continue
            worker, state = described
            if state.attempt_id is not None and state.attempt_id in active:
                held.setdefault(state.attempt_id, {})[worker.name] = worker, state
            elif state.finished:
                self._pool.adopt(worker, state, busy=False)
            else:
                logger.warning("worker killed: its attempt is no longer active", extra={"worker": worker.name})
                self._cluster.end(actor)
        for attempt_id, (job, attempt) in active.items():
            found = held.get(attempt_id, {})
            names = [worker["worker"] for worker in attempt.workers]
            if not (gone := [name for name in names if name not in found]):
                logger.info("attempt adopted", extra={"job": job.id, "attempt": attempt.id, "worker": names[0]})
                self._start(job, attempt, [self._pool.adopt(*found[name], busy=True) for name in names], adopted=True)
                continue
            logger.warning("attempt lost", extra={"job": job.id, "attempt": attempt.id})
            # The other workers of the attempt wait for those that are gone.
            for worker, _ in found.values():
                worker.kill()
            async with self._leadership.write() as session:
                reason = f"worker {', '.join(gone)} was gone when the dispatcher started again"
                await attempts.lose(session, attempt.id, reason, self._settings.max_lost)
        await remove_orphans(self._database, self._artifacts)

    async def _describe(self, actor: Actor) -> tuple[Worker, WorkerState] | None:
        """A worker of an earlier dispatcher and its state. One that does not respond or is not created yet is ended."""
        try:
            if not actor.alive:
                raise WorkerGone("Ray has not created it yet")
            worker = await self._cluster.worker(actor)
            return worker, await worker.describe()
        except WorkerGone as error:
            logger.warning("worker killed: %s", error, extra={"worker": actor.name})
            self._cluster.end(actor)
            return None

    async def _watch_cluster(self) -> None:
        """Keep the pool and the report in line with the cluster, forever. Raises `ClusterGone`."""
        refused = 0
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self._cluster.check()
                refused = 0
                nodes, actors = await self._cluster.survey()
            except ClusterGone:
                self._connected = False
                refused += 1
                if refused >= UNREACHABLE_CHECKS:
                    raise
                continue
            except ClusterSilent as error:
                # The workers may respond all the same: what they train is followed, and can be cancelled.
                if self._connected:
                    logger.warning("%s", error)
                self._connected = False
                continue
            if nodes != self._nodes or not self._connected:
                self._nodes, self._connected = nodes, True
                self._woken.set()
            self._pool.reconcile(actors, self._capacity)

    async def _dispatch(self) -> None:
        while True:
            try:
                waiting = await self._poll_database()
            except (DatabaseError, OSError) as error:
                logger.warning("the database does not answer: %s", error)
                await asyncio.sleep(CHECK_INTERVAL_S / 2)
                continue
            if self._connected:
                self._pool.adjust(waiting, self._capacity)
            await self._sleep(self._settings.dispatch_interval_s)

    async def _poll_database(self) -> int:
        """Forward the requests, and start queued evaluations and jobs on the idle workers.

        Returns:
            The number of workers that what is still in the queue needs.
        """
        async with self._database.read() as session:
            most = self._pool.ceiling(self._capacity)
            full = await self._quotas.full(session)
            found = await attempts.pending(session, max(most, self._capacity) + 1, most, full)
            unevaluated = await evaluations.count_queued(session)
        pending = self._quotas.allowed(found)
        if unevaluated and (idle := self._pool.ready()):
            unevaluated -= await self._evaluations.start(idle[:unevaluated])
        for job in pending:
            if job.status in REQUESTS:
                self._forward_request(job.job_id, job.status)
        waiting = sum(job.num_workers for job in pending if job.status is Status.QUEUED)
        if not waiting:
            self._next_up = None
        while waiting > 0 and (idle := self._pool.ready()) and (taken := await self._claim(idle)):
            waiting -= taken
        return waiting + unevaluated

    async def _claim(self, idle: Sequence[Slot]) -> int:
        """Start the next job. Returns the number of workers it takes, 0 if none starts."""
        free = [FreeWorker(slot.worker.name, slot.node) for slot in idle]
        next_up = self._next_up.job_id if self._next_up else None
        async with self._leadership.write() as session:
            full = await self._quotas.full(session)
            auto = self._precisions.known()
            claimed = await attempts.claim(session, free, slots=self._room, next_up=next_up, auto=auto, full=full)
        self._next_up = claimed if isinstance(claimed, NotEnoughWorkers) else None
        if claimed is None or isinstance(claimed, NotEnoughWorkers):
            return 0
        job, attempt = claimed
        slots = idle[: job.num_workers]
        extra = {"job": job.id, "attempt": attempt.id, "worker": slots[0].worker.name}
        logger.info("attempt begins", extra=extra)
        self._start(job, attempt, slots)
        return job.num_workers

    def _start(self, job: Job, attempt: Attempt, slots: Sequence[Slot], *, adopted: bool = False) -> None:
        for slot in slots:
            self._pool.occupy(slot, job.id, attempt.id)
        storage = AttemptStorage(attempt, self._database, self._artifacts, self._leadership, self._settings.max_lost)
        run = AttemptRun(
            job, attempt, slots, storage, self._datasets, self._pool, self._precisions, self._settings.worker_grace_s
        )
        task = asyncio.create_task(run.run(adopted=adopted), name=attempt.id)
        self._running[job.id] = (run, task)
        task.add_done_callback(lambda task: self._ended(job.id, task))

    def _ended(self, job_id: str, task: asyncio.Task[None]) -> None:
        # The job may have its next attempt already: it is queued before this task ends.
        if job_id in self._running and self._running[job_id][1] is task:
            del self._running[job_id]
        self._woken.set()
        self._attempt_ended.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an attempt is no longer followed: %s", error, extra={"job": job_id})

    def _forward_request(self, job_id: str, status: Status) -> None:
        if job_id in self._running:
            run, _ = self._running[job_id]
            run.request(REQUESTS[status])

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the database notifies, a worker becomes idle or an attempt ends, at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()

    @property
    def _capacity(self) -> int:
        """The number of workers that the nodes have room for."""
        return sum(node.slots for node in self._nodes)

    @property
    def _room(self) -> int:
        """The number of workers that can exist at once: the capacity, within the configured maximum."""
        return min(self._capacity, self._pool.ceiling(self._capacity))

    def _report(self) -> ClusterReport:
        workers = self._pool.report()
        busy = sum(worker.state == "busy" for worker in workers)
        next_up = self._next_up
        return ClusterReport(
            ray=RayReport(status="connected" if self._connected else "unreachable", address=self._cluster.address),
            slots=SlotsReport(
                total=self._room,
                busy=busy,
                free=max(0, self._room - busy),
                problem=room_problem(self._nodes, self._settings) if self._connected else None,
            ),
            nodes=[
                NodeReport(id=node.id, address=node.address, cpus=node.cpus, gpus=node.gpus) for node in self._nodes
            ],
            workers=workers,
            next_up=NextUp(job=next_up.job_id, num_workers=next_up.num_workers) if next_up else None,
            full_names=self._quotas.report(),
            steps=self._precisions.report(),
        )
