"""The dispatcher keeps track of the attempts that run."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.dispatcher.cluster import Actor, Cluster, Node, Request, Worker, WorkerGone, WorkerState
from service.dispatcher.dispatcher import Dispatcher
from service.dispatcher.outcome import Outcome
from service.dispatcher.storage import AttemptStorage
from service.jobs import Status
from service.settings import Settings
from service.store import Database, jobs
from tests.unit.service.dispatcher.conftest import NEVER, Bench, Scripted
from tests.unit.service.store.acting import create

pytestmark = pytest.mark.anyio


async def test_requests_reach_an_attempt_that_began_before_the_previous_one_was_released(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = Dispatcher(
        Settings(home=tmp_path), bench.database, bench.artifacts, cast(Cluster, SimpleNamespace(address=""))
    )
    dispatcher._pool, dispatcher._leadership, dispatcher._datasets = bench.pool, bench.leadership, bench.images
    dispatcher._nodes = [Node("node-1", "", 2, 0, 2)]
    recorded, released, end = asyncio.Event(), asyncio.Event(), AttemptStorage.end

    async def end_slowly(storage: AttemptStorage, outcome: Outcome) -> None:
        await end(storage, outcome)
        recorded.set()
        await released.wait()

    monkeypatch.setattr(AttemptStorage, "end", end_slowly)
    run = await bench.claim(Scripted(WorkerGone("ended by SIGKILL")))
    first = asyncio.create_task(run.run())
    dispatcher._running[run.job_id] = (run, first)
    first.add_done_callback(lambda task: dispatcher._ended(run.job_id, task))
    await recorded.wait()
    worker = Scripted(None)
    worker.name = "worker-1"
    slot = bench.pool.adopt(worker, WorkerState("node-1", 1, "cpu", None, True), busy=False)
    assert await dispatcher._claim([slot]) == 1
    released.set()
    await first
    await asyncio.sleep(0)
    dispatcher._forward_request(run.job_id, Status.CANCELLING)
    await asyncio.sleep(0)
    assert "cancel" in worker.requested
    _, second = dispatcher._running[run.job_id]
    second.cancel()
    await asyncio.wait([second])


class Idle(Scripted):
    """A worker that is idle, and says when an attempt is started on it and when it is asked to stop."""

    def __init__(self) -> None:
        super().__init__(None)
        self.started, self.asked_to_stop = asyncio.Event(), asyncio.Event()

    async def describe(self) -> WorkerState:
        return WorkerState("node-1", 1, "cpu", None, True)

    async def start(self, *_arguments: Any, **_options: Any) -> None:
        self.started.set()

    async def request(self, attempt_id: str, request: Request) -> None:
        await super().request(attempt_id, request)
        self.asked_to_stop.set()


class OneWorker:
    """A cluster of one node with one idle worker."""

    address = ""

    def __init__(self, worker: Worker) -> None:
        self.known = worker

    async def survey(self) -> tuple[Sequence[Node], Sequence[Actor]]:
        return [Node("node-1", "", 1, 0, 1)], [Actor(self.known.name, True, "node-1", 1)]

    async def worker(self, actor: Actor) -> Worker:
        return self.known

    async def connect(self) -> None: ...
    async def check(self) -> None: ...
    async def disconnect(self) -> None: ...


async def test_a_submission_and_a_request_do_not_wait_for_a_poll(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Idle()
    settings = Settings(home=tmp_path, dispatch_interval_s=NEVER)
    dispatcher = Dispatcher(settings, bench.database, bench.artifacts, cast(Cluster, OneWorker(worker)))
    dispatcher._datasets = bench.images
    await bench.leadership.release()
    sleep, asleep = dispatcher._sleep, asyncio.Event()

    async def sleeping(seconds: float) -> None:
        if not dispatcher._woken.is_set():
            asleep.set()
        await sleep(seconds)

    monkeypatch.setattr(dispatcher, "_sleep", sleeping)
    running = asyncio.create_task(dispatcher.run())
    async with Database(settings.database) as api, asyncio.timeout(120):
        await asleep.wait()
        job = await create(api, batch_size=8)
        await worker.started.wait()
        asleep.clear()
        dispatcher._woken.set()
        await asleep.wait()
        async with api.write() as session:
            await jobs.pause(session, job)
        await worker.asked_to_stop.wait()
    assert worker.requested == ["pause"]
    running.cancel()
    await asyncio.wait([running])
