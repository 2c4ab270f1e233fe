"""The dispatcher keeps track of the attempts that run."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from service.dispatcher.cluster import Cluster, Node, WorkerGone, WorkerState
from service.dispatcher.dispatcher import Dispatcher
from service.dispatcher.outcome import Outcome
from service.dispatcher.storage import AttemptStorage
from service.jobs import Status
from service.settings import Settings
from tests.unit.service.dispatcher.conftest import Bench, Scripted

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
    await dispatcher._forward_request(run.job_id, Status.CANCELLING)
    assert "cancel" in worker.requested
    _, second = dispatcher._running[run.job_id]
    second.cancel()
    await asyncio.wait([second])
