"""One attempt on one worker or several: prepare, launch, follow, decide, release."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import ValidationError

from service.dispatcher import patience
from service.dispatcher.cluster import DatasetError, Report, Request, Worker, WorkerGone, share
from service.dispatcher.datasets import Datasets
from service.dispatcher.leadership import LeadershipLost
from service.dispatcher.outcome import Ending, Outcome, decide_outcome
from service.dispatcher.pool import Pool, Slot
from service.dispatcher.precisions import Precisions
from service.dispatcher.storage import AttemptStorage
from service.errors import CorruptFile, StorageFull
from service.store.attempts import Fenced
from service.store.tables import Attempt, Job
from worker.events import Failure, Finished, Precision
from worker.spec import TrainingSpec

logger = logging.getLogger(__name__)

POLL_WAIT_S = 2.0
"""A worker answers a poll within this time, with or without events."""
SETTLE_S = 3.0
"""After one worker has ended, the time the others get to notice and to report why they end."""


class CancelledBeforeLaunch(Exception):
    """The job was cancelled while the attempt waited for its dataset or its checkpoint."""


@dataclass(frozen=True)
class Inputs:
    """What the workers of an attempt start from: references to objects in Ray's store, and the precision."""

    dataset: Any
    checkpoint: Any
    precision: Precision
    initial: Any = None


class AttemptRun:
    """Runs one attempt to its end.

    All workers are polled, which renews their leases. The reports of rank 0 are recorded; the others report only how
    they ended. The death of one worker ends the attempt.
    """

    def __init__(
        self,
        job: Job,
        attempt: Attempt,
        slots: Sequence[Slot],
        storage: AttemptStorage,
        datasets: Datasets,
        pool: Pool,
        precisions: Precisions,
        grace_s: float,
    ) -> None:
        self.job_id, self.attempt_id = job.id, attempt.id
        self._job, self._stored_spec = job, job.spec
        self._recorded_seq = attempt.last_seq
        self._resumable = attempt.number > 1 or job.extends is not None
        self._slots, self._storage, self._datasets, self._pool = slots, storage, datasets, pool
        self._precisions, self._grace_s = precisions, grace_s
        self._first = slots[0].worker
        self._asking: set[asyncio.Task[None]] = set()
        self._requested: Request | None = None
        self._preparing: asyncio.Task[Inputs] | None = None
        self._all_received = asyncio.Barrier(len(slots))
        self._address = ""
        self._listening = asyncio.Event()
        self._launched: set[int] = set()
        self._recording = asyncio.Lock()
        extra = {"job": job.id, "attempt": attempt.id, "worker": self._first.name}
        self._log = logging.LoggerAdapter(logger, extra)

    async def run(self, *, adopted: bool = False) -> None:
        """Run the attempt until its end is recorded and its workers are idle or discarded.

        Args:
            adopted: Whether an earlier dispatcher has launched the attempt.

        Raises:
            LeadershipLost: If another dispatcher is active.
        """
        try:
            outcome, reusable = await self._train(adopted=adopted)
        finally:
            for task in self._asking:
                task.cancel()
        await self._release(outcome, reusable)

    def request(self, request: Request) -> None:
        """Forward a request to rank 0, once; the workers agree on it among themselves.

        Workers that do not cancel within the grace period are killed.
        """
        if self._requested in (request, "cancel"):
            return
        self._requested = request
        if self._preparing is not None and request == "cancel":
            self._preparing.cancel()
        steps = (self._ask(request), self._kill_late()) if request == "cancel" else (self._ask(request),)
        self._asking.update(map(asyncio.create_task, steps))

    async def _ask(self, request: Request) -> None:
        with suppress(WorkerGone):
            await self._first.request(self.attempt_id, request)

    async def _kill_late(self) -> None:
        await patience.sleep(self._grace_s)
        self._log.warning("workers killed: they did not cancel in time")
        for slot in self._slots:
            slot.worker.kill(f"the attempt was not cancelled within {self._grace_s:g} s")

    async def _train(self, *, adopted: bool) -> tuple[Outcome | None, Sequence[Slot]]:
        """Prepare, launch, follow and decide.

        Returns:
            The outcome, or None if the job has another attempt by now; and the slots whose workers can be used again.
            Every other worker may still train, or is in an unknown state.
        """
        try:
            self._spec = TrainingSpec.model_validate(self._stored_spec)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = f"the stored spec is not valid: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            return _failure("invalid", message), () if adopted else self._slots
        try:
            inputs = None if adopted else await self._prepare()
            endings = await self._follow_all(inputs)
        except WorkerGone as error:
            return error, ()
        except CancelledBeforeLaunch:
            return WorkerGone("cancelled before it started"), self._slots
        except DatasetError as error:
            return _failure("dataset", str(error)), self._slots
        except (StorageFull, CorruptFile) as error:
            return _failure("checkpoint", str(error)), ()
        except Fenced as error:
            self._log.warning("a report is refused: %s", error)
            return None, ()
        except LeadershipLost:
            raise
        except Exception as error:
            return self._own_failure(error), ()
        reusable = [slot for rank, slot in enumerate(self._slots) if self._is_reusable(rank, endings[rank])]
        return decide_outcome(endings), reusable

    # Prepare

    async def _prepare(self) -> Inputs:
        self._preparing = asyncio.create_task(self._load_inputs())
        try:
            return await self._preparing
        except asyncio.CancelledError:
            if self._requested == "cancel":
                raise CancelledBeforeLaunch from None
            raise
        finally:
            self._preparing = None

    async def _load_inputs(self) -> Inputs:
        dataset = await self._datasets.get(self._spec.dataset.name, self._storage.log_soon)
        extended = self._job.from_checkpoint if self._job.extends else None
        checkpoint = await self._storage.latest_checkpoint(extended) if self._resumable else None
        shared = None if checkpoint is None else await share(checkpoint)
        initial = None
        if checkpoint is None and self._spec.init_from is not None:
            initial = await share(await self._storage.checkpoint(self._spec.init_from))
        return Inputs(dataset, shared, await self._resolve_precision(), initial)

    async def _resolve_precision(self) -> Precision:
        """The precision of the job. If only the speed can tell what `auto` means, the first worker measures it."""
        if self._job.precision is not None:
            stored: Precision = self._job.precision  # type: ignore[assignment]
            return stored
        found = await self._precisions.measure(await self._storage.workloads(self._job), self._first)
        return await self._storage.resolve_precision(found)

    # Launch

    async def _launch(self, rank: int, inputs: Inputs) -> None:
        """Start the worker of a rank: rank 0 first, the others once rank 0 listens for them."""
        worker, several = self._slots[rank].worker, len(self._slots) > 1
        if several:
            # Workers that have started wait only a limited time for each other: the images are there before.
            await worker.receive(inputs.dataset)
            await self._all_received.wait()
        if rank:
            await self._listening.wait()
        self._launched.add(rank)
        await worker.start(
            self.attempt_id,
            self._stored_spec,
            inputs.dataset,
            inputs.checkpoint,
            rank,
            self._address,
            inputs.precision,
            inputs.initial,
        )
        if rank == 0:
            if self._requested is not None:
                # It was requested before the worker knew the attempt.
                await worker.request(self.attempt_id, self._requested)
            if several and (address := await worker.rendezvous(self.attempt_id)) is not None:
                self._address = address
                self._listening.set()

    # Follow

    async def _follow_all(self, inputs: Inputs | None) -> Sequence[Ending]:
        """Launch the workers unless they run already, and follow each to its end.

        Once one worker has failed, is lost, or is rank 0 and has ended, the others get `SETTLE_S` seconds to end.
        """
        ranks = range(len(self._slots))
        if inputs is None:
            self._launched.update(ranks)
        tasks = [asyncio.create_task(self._run_worker(rank, inputs)) for rank in ranks]
        try:
            pending: set[asyncio.Task[Finished]] = set(tasks)
            while pending and not tasks[0].done() and not any(_failed(task) for task in tasks):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                await asyncio.wait(pending, timeout=SETTLE_S)
            # A checkpoint that is being stored counts: the next attempt resumes from it.
            async with self._recording:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            # A transaction among them must be rolled back before the database is closed.
            await asyncio.wait(tasks)
            raise
        return [_ending(task) for task in tasks]

    async def _run_worker(self, rank: int, inputs: Inputs | None) -> Finished:
        if inputs is not None:
            await self._launch(rank, inputs)
        return await (self._follow_other(self._slots[rank].worker) if rank else self._follow_reporting())

    async def _follow_reporting(self) -> Finished:
        """Record what rank 0 reports; return its last report unrecorded, because the outcome depends on all workers."""
        while True:
            report = await self._first.poll(self.attempt_id, self._recorded_seq, POLL_WAIT_S)
            if not report.events:
                continue
            last = report.events[-1]
            ended = last if isinstance(last, Finished) else None
            if events := report.events[:-1] if ended else report.events:
                await self._storage.record(
                    events,
                    partial(self._fetch, report),
                    keep_last=self._spec.checkpoint.keep_last,
                    exclusive=self._recording,
                    before_retry=self._renew_lease,
                )
                self._recorded_seq = events[-1].seq
            if ended is not None:
                return ended

    async def _fetch(self, report: Report, seq: int) -> Mapping[str, bytes]:
        return await self._first.fetch(report.checkpoints[seq])

    async def _renew_lease(self) -> None:
        """Poll rank 0 without an acknowledgement: its worker keeps the events."""
        await self._first.poll(self.attempt_id, self._recorded_seq, 0)

    async def _follow_other(self, worker: Worker) -> Finished:
        """Renew the lease of another rank until it reports how it ended."""
        while True:
            report = await worker.poll(self.attempt_id, 0, POLL_WAIT_S)
            if report.events and isinstance(last := report.events[-1], Finished):
                return last

    # Decide and release

    def _is_reusable(self, rank: int, ending: Ending) -> bool:
        """Whether a worker can take another attempt: it ended this one, or was never launched.

        A failure among several GPUs may leave NCCL in a broken state. If others left no memory on its GPU, a new worker
        may get another GPU.
        """
        if rank not in self._launched and not isinstance(ending, WorkerGone):
            return True
        if not isinstance(ending, Finished):
            return False
        failure = ending.failure
        if failure is not None and failure.code == "out_of_memory" and failure.may_pass:
            return False
        return ending.outcome != "failed" or len(self._slots) == 1 or self._slots[rank].device == "cpu"

    async def _release(self, outcome: Outcome | None, reusable: Sequence[Slot]) -> None:
        # A worker that still trains must end before the job is queued again.
        for slot in self._slots:
            if slot not in reusable:
                self._pool.discard(slot)
        match outcome:
            case Failure():
                self._log.warning("attempt failed: %s", outcome.message)
            case WorkerGone():
                self._log.warning("attempt lost: %s", outcome)
        if outcome is not None:
            try:
                await self._storage.end(outcome)
            except LeadershipLost:
                raise
            except Exception as error:
                for slot in reusable:
                    self._pool.discard(slot)
                await self._storage.end(self._own_failure(error))
                return
        for slot in reusable:
            self._pool.give_back(slot)

    def _own_failure(self, error: Exception) -> Failure:
        """Log a bug in the dispatcher, which must not leave the job in a running state and its workers busy."""
        self._log.exception("the dispatcher failed at this attempt")
        return _failure("exception", f"the dispatcher failed at this attempt: {error!r}", may_pass=True)


def _failure(
    code: Literal["invalid", "dataset", "checkpoint", "exception"], message: str, *, may_pass: bool = False
) -> Failure:
    return Failure(code=code, message=message, may_pass=may_pass)


def _failed(task: "asyncio.Task[Finished]") -> bool:
    return task.done() and (task.exception() is not None or task.result().outcome == "failed")


def _ending(task: "asyncio.Task[Finished]") -> Ending:
    """How a worker ended. Raises the error of the task, unless that is `WorkerGone`."""
    if task.cancelled():
        return None
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, WorkerGone):
        return error
    raise error
