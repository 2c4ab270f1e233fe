"""Calls to workers and questions to Ray end, whether they are answered or not."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from service.dispatcher import cluster as cluster_module
from service.dispatcher.background import Background
from service.dispatcher.cluster import Actor, Cluster, ClusterSilent, Node, Worker, WorkerGone, WorkerState
from service.settings import Settings
from worker.process.process_ids import ProcessId, machine

pytestmark = pytest.mark.anyio


class Handle:
    """The handle of an actor, whose calls the test answers."""

    def __init__(self) -> None:
        self.called = asyncio.Event()
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    def __getattr__(self, method: str) -> "Handle":
        return self

    def remote(self, *_arguments: Any) -> "Handle":
        self.called.set()
        return self

    def __await__(self) -> Generator[Any, None, Any]:
        return self.answers.get().__await__()


class Controls(Background):
    """Records for which workers Ray is asked to act."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def submit(self, call: Any, *arguments: Any) -> Any:
        self.asked.append(f"{call.__name__} {arguments[0]}")


@pytest.fixture
async def handle() -> Handle:
    return Handle()


async def test_a_call_returns_the_answer_and_the_worker_was_heard_from(handle: Handle) -> None:
    worker = Worker("worker-1", handle, Controls())
    worker.heard_at = 0.0
    handle.answers.put_nowait("10.0.0.1:7")
    assert await worker.rendezvous("attempt_1") == "10.0.0.1:7"
    assert worker.heard_at > 0


async def test_a_worker_that_does_not_answer_is_gone(handle: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "ANSWER_TIMEOUT_S", 0.01)
    worker = Worker("worker-1", handle, Controls())
    with pytest.raises(WorkerGone, match=r"did not answer for 0\.01 s"):
        await worker.request("attempt_1", "cancel")


async def test_calls_end_when_their_worker_is_killed(handle: Handle) -> None:
    controls = Controls()
    worker = Worker("worker-1", handle, controls)
    polling = asyncio.create_task(worker.poll("attempt_1", 0, 1000))
    await handle.called.wait()
    worker.kill("it did not respond")
    for call in (polling, worker.describe()):
        with pytest.raises(WorkerGone, match="it did not respond"):
            await call
    assert controls.asked == ["_kill worker-1"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("here", [True, False])
async def test_a_worker_on_this_machine_is_killed_without_ray(handle: Handle, here: bool) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]) as process:
        os.kill(process.pid, signal.SIGSTOP)
        where = machine() if here else "another machine"
        processes = (ProcessId.of(process.pid),)
        state = WorkerState("node-1", process.pid, "cpu", None, finished=True, processes=processes, machine=where)
        worker = Worker("worker-1", handle, Controls())
        handle.answers.put_nowait(state)
        assert await worker.describe() == state
        worker.kill()
        if here:
            assert process.wait(120) == -signal.SIGKILL
        else:
            assert process.poll() is None
            process.kill()


async def test_the_call_to_ray_that_creates_a_worker_may_fail(handle: Handle) -> None:
    creating: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    creating.set_exception(ConnectionError("the head is gone"))
    with pytest.raises(WorkerGone, match="Ray did not create the worker: the head is gone"):
        await Worker("worker-1", creating, Controls()).prepare()


async def test_a_question_that_ray_does_not_answer_in_time_is_not_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "SURVEY_TIMEOUT_S", 0.01)
    cluster = Cluster(Settings(home=tmp_path, ray_address="10.0.0.1:6379"))
    asked, may_answer = 0, threading.Event()
    known = [Node("node-1", "", 1, 0, 1)], [Actor("worker-1", True, "node-1", 7)]

    def survey() -> tuple[Sequence[Node], Sequence[Actor]]:
        nonlocal asked
        asked += 1
        may_answer.wait()
        return known

    monkeypatch.setattr(cluster, "_survey", survey)
    for _ in range(3):
        with pytest.raises(ClusterSilent, match=r"Ray at 10\.0\.0\.1:6379 did not answer for 0\.01 s"):
            await cluster.survey()
    may_answer.set()
    await cast("asyncio.Future[Any]", cluster._surveying)
    assert await cluster.survey() == known
    assert asked == 1


async def test_an_error_of_ray_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(Settings(home=tmp_path, ray_address="10.0.0.1:6379"))

    def survey() -> tuple[Sequence[Node], Sequence[Actor]]:
        raise RuntimeError("UNAVAILABLE")

    monkeypatch.setattr(cluster, "_survey", survey)
    with pytest.raises(ClusterSilent, match="answered with an error: UNAVAILABLE"):
        await cluster.survey()
