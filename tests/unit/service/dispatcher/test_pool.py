"""The pool keeps the required number of workers, and requests more than the cluster has room for if allowed."""

import asyncio
import time
from typing import Any, cast

import pytest

from service.dispatcher.cluster import Cluster, Worker, WorkerState
from service.dispatcher.pool import Pool
from service.settings import Settings

pytestmark = pytest.mark.anyio


class Room(Cluster):
    """A cluster with room for a number of workers; further workers wait."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.alive: list[str] = []
        self.ready = asyncio.Event()

    def start_worker(self, name: str) -> Worker:
        self.alive.append(name)
        return cast(Worker, Coming(name, self))


class Coming:
    """A worker that starts when the cluster has room for it."""

    def __init__(self, name: str, cluster: Room) -> None:
        self.name, self._cluster = name, cluster
        self.heard_at = time.monotonic()

    async def prepare(self) -> WorkerState:
        if self._cluster.alive.index(self.name) >= self._cluster.room:
            await asyncio.Event().wait()
        return WorkerState(node="n", pid=1, device="cpu", attempt_id=None, finished=True)

    def retire(self) -> None:
        self._cluster.alive.remove(self.name)

    def kill(self, reason: str) -> None:
        self.retire()


def pool(cluster: Room, **settings: Any) -> Pool:
    return Pool(cluster, Settings(warm_workers=1, **settings), cluster.ready.set)


async def until_ready(pool: Pool, cluster: Room, count: int) -> None:
    async with asyncio.timeout(120):
        while len(pool.ready()) < count:
            await cluster.ready.wait()
            cluster.ready.clear()


async def test_no_more_are_asked_for_than_there_is_room_for() -> None:
    cluster = Room(2)
    some = pool(cluster)
    some.adjust(waiting=5, capacity=2)
    assert len(cluster.alive) == 2
    await until_ready(some, cluster, 2)
    some.stop()


async def test_up_to_the_most_are_asked_for_while_jobs_wait_and_no_longer_once_none_does() -> None:
    cluster = Room(2)
    some = pool(cluster, max_workers=6)
    some.adjust(waiting=4, capacity=2)
    assert len(cluster.alive) == 4
    some.adjust(waiting=40, capacity=2)
    assert len(cluster.alive) == 6
    await until_ready(some, cluster, 2)
    some.adjust(waiting=0, capacity=2)
    assert len(cluster.alive) == 2
    assert len(some.ready()) == 2, "those that are there wait for what comes next"
    some.stop()


async def test_the_most_holds_in_a_large_cluster_too() -> None:
    cluster = Room(8)
    some = pool(cluster, max_workers=3)
    some.adjust(waiting=8, capacity=8)
    assert len(cluster.alive) == 3
    some.stop()


async def test_nodes_are_given_back_after_a_while() -> None:
    cluster = Room(4)
    some = pool(cluster, worker_idle_s=0.01)
    some.adjust(waiting=4, capacity=4)
    await until_ready(some, cluster, 4)
    await asyncio.sleep(0.02)
    some.adjust(waiting=0, capacity=4)
    assert len(cluster.alive) == 1
    some.stop()
