"""The workers of one attempt, where they are several: started together, followed together, judged together."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from service.dispatcher.cluster import Worker, WorkerGone, share
from worker.events import Failure, Finished

POLL_WAIT_S = 2.0
"""A worker that is followed answers a poll within this, whether or not it has anything to say."""
SETTLE_S = 3.0
"""Once one worker has ended, the others have so long to find out, and to say why they did."""

Ending = Finished | WorkerGone | None
"""The last report of a worker, or how it was lost; None for one that had not ended when the others had."""
Start = Callable[[int], Awaitable[None]]


class Gang:
    """The workers of an attempt, by rank."""

    def __init__(self, workers: Sequence[Worker], attempt_id: str, spec: dict[str, Any]) -> None:
        self._workers, self._attempt_id, self._spec = workers, attempt_id, spec
        self._begun: set[int] = set()
        self._endings: list[Ending] = [None] * len(workers)

    def starting(
        self, dataset: Any, checkpoint: Mapping[str, bytes] | None, on_started: Callable[[], Awaitable[None]]
    ) -> Start:
        """How the worker of a rank is started: once all have the images, and the others where the first one listens."""
        ready = asyncio.Barrier(len(self._workers))
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        files = None if checkpoint is None else asyncio.ensure_future(share(checkpoint))

        async def start(rank: int) -> None:
            worker = self._workers[rank]
            await worker.receive(dataset)
            await ready.wait()
            shared = None if files is None else await asyncio.shield(files)
            where = await address if rank else ""
            self._begun.add(rank)
            await worker.start(self._attempt_id, self._spec, dataset, shared, rank, where)
            if rank == 0:
                await on_started()
                listening = await worker.rendezvous(self._attempt_id)
                if listening is not None:
                    address.set_result(listening)

        return start

    async def see_through(
        self, start: Start | None, follow_first: Callable[[], Awaitable[Finished]], writing: asyncio.Lock
    ) -> Sequence[Ending]:
        """How each worker ended: all of them, or those that had once the others had time to.

        Without a `start` they run already. `follow_first` sees to the reports of the first one, and is not left while
        it holds the lock `writing`. Raises what it raises, `WorkerGone` apart.
        """
        if start is None:
            self._begun.update(range(len(self._workers)))

        async def attend(rank: int) -> Finished:
            if start is not None:
                await start(rank)
            return await (self._follow(rank) if rank else follow_first())

        tasks = [asyncio.create_task(attend(rank)) for rank in range(len(self._workers))]
        try:
            pending: set[asyncio.Task[Finished]] = set(tasks)
            while pending and not tasks[0].done() and not any(_in_trouble(task) for task in tasks):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                await asyncio.wait(pending, timeout=SETTLE_S)
            async with writing:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            raise
        for rank, task in enumerate(tasks):
            self._endings[rank] = _ending(task)
        return self._endings

    def is_whole(self, rank: int, device: str) -> bool:
        """Whether a worker can take another attempt: it ended this one by itself, or never began.

        Between GPUs only if nothing went wrong: what NCCL leaves of a broken exchange is not to be trusted.
        """
        ending = self._endings[rank]
        if rank not in self._begun and not isinstance(ending, WorkerGone):
            return True
        return isinstance(ending, Finished) and (device == "cpu" or ending.outcome != "failed")

    async def _follow(self, rank: int) -> Finished:
        """Renew the lease of a worker that does not report, until it says how it ended."""
        while True:
            report = await self._workers[rank].poll(self._attempt_id, 0, POLL_WAIT_S)
            if report.events and isinstance(last := report.events[-1], Finished):
                return last


def _in_trouble(task: "asyncio.Task[Finished]") -> bool:
    return task.done() and (task.exception() is not None or task.result().outcome == "failed")


def _ending(task: "asyncio.Task[Finished]") -> Ending:
    if task.cancelled():
        return None
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, WorkerGone):
        return error
    raise error


def verdict(endings: Sequence[Ending]) -> Finished | Failure | WorkerGone:
    """What is written down of an attempt whose workers ended as `endings` say, by rank; one of them has ended.

    What the first worker brought to its end counts. Else the failure of a worker is that of the attempt, and is told
    with its rank: where one fails the others find it gone, and that says nothing. Without one, the attempt was lost
    with the first worker that was; the others were only left behind.
    """
    first = endings[0]
    if isinstance(first, Finished) and first.outcome != "failed":
        return first
    lost: WorkerGone | None = None
    left_behind: WorkerGone | None = None
    for rank, ending in enumerate(endings):
        match ending:
            case Finished(failure=Failure(code="peer", message=message)):
                left_behind = left_behind or WorkerGone(message)
            case Finished(failure=Failure() as failure):
                return failure.model_copy(update={"message": f"rank {rank}: {failure.message}"})
            case WorkerGone():
                lost = lost or WorkerGone(f"rank {rank}: {ending}")
    return lost or left_behind or WorkerGone("a worker of the job gave it up")
