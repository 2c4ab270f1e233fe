"""Workers that do not respond get no attempts, and are replaced; the pool and Ray have the same workers."""

import asyncio
import time
from typing import Any, cast

import pytest

from service.dispatcher.cluster import Actor, Cluster, Worker, WorkerGone, WorkerState
from service.dispatcher.pool import HEARD_S, READY_LIMIT_S, STRANGER_LOOKS, Pool, Slot
from service.settings import Settings

pytestmark = pytest.mark.anyio

READY = WorkerState("node-1", 7, "cpu", None, finished=True)


class Fake:
    """A worker that answers a ping when the test says so."""

    def __init__(self, name: str) -> None:
        self.name, self.heard_at = name, time.monotonic()
        self.pinged, self.answer = asyncio.Event(), asyncio.Event()
        self.prepared = asyncio.Event()
        self.error: WorkerGone | None = None
        self.killed: str | None = None

    async def ping(self, wait_s: int) -> None:
        self.pinged.set()
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        self.heard_at = time.monotonic()

    async def prepare(self) -> WorkerState:
        await self.prepared.wait()
        return READY

    def kill(self, reason: str) -> None:
        self.killed = reason


class Known(Cluster):
    """A cluster that records which workers it is asked to start and to end."""

    def __init__(self) -> None:
        self.started: list[Fake] = []
        self.ended: list[str] = []

    def start_worker(self, name: str) -> Worker:
        self.started.append(Fake(name))
        return cast(Worker, self.started[-1])

    def end(self, actor: Actor) -> None:
        self.ended.append(actor.name)


class Bench:
    """A pool, and the wake-ups of its dispatcher."""

    def __init__(self, **settings: Any) -> None:
        self.cluster, self.woken = Known(), asyncio.Event()
        self.pool = Pool(self.cluster, Settings(**settings), self.woken.set)

    def add(self, *, busy: bool = False, silent_s: float = 0) -> tuple[Fake, Slot]:
        worker = Fake("worker-1")
        worker.heard_at -= silent_s
        return worker, self.pool.adopt(cast(Worker, worker), READY, busy=busy)

    def look(self, *names: str, alive: bool = True, capacity: int = 2) -> None:
        self.pool.reconcile([Actor(name, alive, "node-1", 7) for name in names], capacity)

    def names(self) -> list[str]:
        return [worker.id for worker in self.pool.report()]


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_an_idle_worker_that_was_heard_from_lately_takes_an_attempt_without_being_asked(bench: Bench) -> None:
    worker, slot = bench.add()
    assert bench.pool.ready() == [slot]
    assert not worker.pinged.is_set()


async def test_an_idle_worker_that_was_not_heard_from_lately_is_asked_first(bench: Bench) -> None:
    worker, slot = bench.add(silent_s=HEARD_S + 1)
    assert bench.pool.ready() == []
    await worker.pinged.wait()
    assert not bench.woken.is_set()
    worker.answer.set()
    await bench.woken.wait()
    assert bench.pool.ready() == [slot]


@pytest.mark.parametrize("busy", [False, True])
async def test_a_worker_that_does_not_respond_is_replaced(bench: Bench, busy: bool) -> None:
    worker, _ = bench.add(busy=busy, silent_s=100)
    watching = asyncio.create_task(bench.pool.watch())
    await worker.pinged.wait()
    worker.error = WorkerGone("the worker did not answer for 7 s")
    worker.answer.set()
    await bench.woken.wait()
    assert bench.names() == []
    assert worker.killed == "the worker did not answer for 7 s"
    watching.cancel()


@pytest.mark.parametrize("busy", [False, True])
async def test_a_worker_is_asked_only_if_it_was_not_heard_from(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    looks = 0

    async def look(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise asyncio.CancelledError

    worker, _ = bench.add(busy=busy, silent_s=HEARD_S / 2)
    monkeypatch.setattr(asyncio, "sleep", look)
    with pytest.raises(asyncio.CancelledError):
        await bench.pool.watch()
    monkeypatch.undo()
    await asyncio.sleep(0)
    assert not worker.pinged.is_set()


async def test_a_worker_of_ray_that_the_pool_does_not_have_is_ended(bench: Bench) -> None:
    bench.add()
    bench.look("worker-1", "stranger")
    assert bench.cluster.ended == [], "it may be about to end"
    bench.look("worker-1", "stranger")
    assert bench.cluster.ended == ["stranger"]
    for _ in range(STRANGER_LOOKS - 3):
        bench.look("worker-1", "stranger")
    assert bench.cluster.ended == ["stranger"]
    bench.look("worker-1", "stranger")
    assert bench.cluster.ended == ["stranger", "stranger"], "asked again while it exists"
    assert bench.names() == ["worker-1"]


async def test_a_worker_of_the_pool_that_ray_does_not_have_is_replaced(bench: Bench) -> None:
    worker, _ = bench.add()
    for listed in ((), ("worker-1",), ()):
        bench.look(*listed)
    assert bench.names() == ["worker-1"]
    bench.look()
    assert bench.names() == []
    assert worker.killed == "Ray no longer has the worker"
    assert bench.woken.is_set()


@pytest.mark.parametrize("alive", [False, True])
async def test_a_worker_that_does_not_become_ready_is_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    bench.pool.adjust(waiting=1, capacity=2)
    (worker,) = bench.cluster.started
    bench.look(worker.name, alive=alive)
    assert bench.names() == [worker.name]
    (slot,) = bench.pool._slots.values()
    slot.began_at -= READY_LIMIT_S + 1
    bench.look(worker.name, alive=alive)
    assert bench.names() == []
    assert worker.killed == f"it was not ready after {READY_LIMIT_S:g} s"


async def test_a_worker_may_wait_for_room_for_any_time() -> None:
    bench = Bench(max_workers=3)
    bench.pool.adjust(waiting=3, capacity=1)
    names = bench.names()
    for slot in bench.pool._slots.values():
        slot.began_at -= READY_LIMIT_S + 1
    bench.cluster.started[0].prepared.set()
    await bench.woken.wait()
    bench.pool.reconcile([Actor(name, name == names[0], "", 0) for name in names], 1)
    assert bench.names() == names
    bench.pool.reconcile([Actor(name, name == names[0], "", 0) for name in names], 2)
    assert bench.names() == names, "the time began when there was room"
    bench.pool.stop()


async def test_a_worker_that_was_still_starting_when_its_dispatcher_ended_is_awaited(bench: Bench) -> None:
    worker = Fake("worker-1")
    starting = WorkerState("node-1", 7, "", None, finished=True, ready=False)
    bench.pool.adopt(cast(Worker, worker), starting, busy=False)
    assert [one.state for one in bench.pool.report()] == ["starting"]
    worker.prepared.set()
    await bench.woken.wait()
    assert [(one.state, one.device) for one in bench.pool.report()] == [("idle", "cpu")]
