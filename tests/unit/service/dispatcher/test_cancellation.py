"""A cancelled job ends in time, whatever its workers and Ray do."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from service.dispatcher import dispatcher as dispatcher_module
from service.dispatcher.cluster import (
    Actor,
    Cluster,
    ClusterSilent,
    Node,
    Report,
    Request,
    Worker,
    WorkerGone,
    WorkerState,
)
from service.dispatcher.dispatcher import Dispatcher
from service.jobs import Status
from service.settings import Settings
from service.store import jobs
from tests.unit.service.dispatcher.conftest import NEVER, Bench, Scripted

pytestmark = pytest.mark.anyio


class Frozen(Scripted):
    """A worker that answers nothing until it is killed."""

    def __init__(self) -> None:
        super().__init__(None)
        self.polled, self._ended = asyncio.Event(), asyncio.Event()
        self._reason = ""

    async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        self.polled.set()
        await self._ended.wait()
        raise WorkerGone(self._reason)

    async def request(self, attempt_id: str, request: Request) -> None:
        self.requested.append(request)
        await self._ended.wait()
        raise WorkerGone(self._reason)

    def kill(self, reason: str = "") -> None:
        self._reason = self._reason or reason
        self.killed = True
        self._ended.set()


async def cancel(bench: Bench, job_id: str) -> None:
    async with bench.database.write() as session:
        await jobs.cancel(session, job_id)


async def test_workers_that_do_not_respond_are_killed_after_the_grace_period(bench: Bench) -> None:
    worker = Frozen()
    run = await bench.claim(worker)
    run._grace_s = 0.01
    task = asyncio.create_task(run.run())
    await worker.polled.wait()
    await cancel(bench, run.job_id)
    run.request("cancel")
    await task
    assert worker.requested == ["cancel"]
    assert worker.killed
    assert (await bench.job(run)).status is Status.CANCELLED
    assert (await bench.attempt(run)).reason == "the attempt was not cancelled within 0.01 s"
    assert bench.idle() == set()


async def test_a_worker_that_does_not_answer_a_request_delays_no_other_job(bench: Bench, tmp_path: Path) -> None:
    class Known:
        address = ""

    dispatcher = Dispatcher(Settings(home=tmp_path), bench.database, bench.artifacts, cast(Cluster, Known()))
    worker = Frozen()
    run = await bench.claim(worker)
    task = asyncio.create_task(run.run())
    dispatcher._running[run.job_id] = run, task
    await worker.polled.wait()
    async with bench.database.write() as session:
        await jobs.pause(session, run.job_id)
    assert await dispatcher._poll_database() == 0, "it returns although the worker does not answer"
    worker.kill("ended by SIGKILL")
    await task


class Starting(Scripted):
    """A worker that Ray has not created yet."""

    async def prepare(self) -> WorkerState:
        await asyncio.sleep(NEVER)
        raise AssertionError


class Silent:
    """A cluster whose head accepts connections, and answers when the test lets it."""

    address = "10.0.0.1:6379"

    def __init__(self) -> None:
        self.silent = True
        self.asked, self.started = asyncio.Event(), asyncio.Event()
        self.known: Sequence[Actor] = ()

    async def connect(self) -> None:
        await self.survey()

    async def check(self) -> None: ...

    async def survey(self) -> tuple[Sequence[Node], Sequence[Actor]]:
        self.asked.set()
        if self.silent:
            raise ClusterSilent("Ray at 10.0.0.1:6379 did not answer for 4 s")
        return [Node("node-1", "", 1, 0, 1)], self.known

    def start_worker(self, name: str) -> Worker:
        assert not self.silent, "Ray is not asked for workers while it does not answer"
        self.started.set()
        return Starting(None)

    async def disconnect(self) -> None: ...


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Silent:
    monkeypatch.setattr(dispatcher_module, "CHECK_INTERVAL_S", 0.01)
    return Silent()


def dispatching(bench: Bench, silent: Silent, tmp_path: Path, **settings: Any) -> Dispatcher:
    chosen = Settings(home=tmp_path, dispatch_interval_s=0.01, **settings)
    return Dispatcher(chosen, bench.database, bench.artifacts, cast(Cluster, silent))


async def reach(bench: Bench, job_id: str, status: Status) -> None:
    async with asyncio.timeout(120):
        while True:
            async with bench.database.read() as session:
                if (await jobs.get(session, job_id)).status is status:
                    return
            await asyncio.sleep(0.01)


async def test_a_job_is_cancelled_though_the_dispatcher_cannot_connect_to_ray(
    bench: Bench, silent: Silent, tmp_path: Path
) -> None:
    cancelled, other = await bench.claim(Scripted(None)), await bench.claim(Scripted(None))
    await cancel(bench, cancelled.job_id)
    await bench.leadership.release()
    dispatcher = dispatching(bench, silent, tmp_path, worker_grace_s=0.01, worker_lease_s=NEVER)
    running = asyncio.create_task(dispatcher.run())
    await reach(bench, cancelled.job_id, Status.CANCELLED)
    assert (await bench.job(other)).status is Status.STARTING, "its workers may still train"
    running.cancel()
    await asyncio.wait([running])


async def test_ray_that_does_not_answer_is_reported_and_used_again_once_it_does(
    bench: Bench, silent: Silent, tmp_path: Path
) -> None:
    dispatcher = dispatching(bench, silent, tmp_path)
    dispatcher._connected = True
    watching = asyncio.create_task(dispatcher._watch_cluster())
    starting = asyncio.create_task(dispatcher._dispatch())
    async with asyncio.timeout(120):
        while dispatcher._report().ray.status == "connected":
            await silent.asked.wait()
            await asyncio.sleep(0)
        silent.silent = False
        await silent.started.wait()
    assert dispatcher._report().ray.status == "connected"
    assert dispatcher._report().slots.total == 1
    for task in (watching, starting):
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
    dispatcher._pool.stop()
