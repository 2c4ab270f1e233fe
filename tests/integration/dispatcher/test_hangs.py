"""Processes that stop without ending, and workers that only Ray knows, hold no slot and no job."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.dispatcher.pool import HEARD_S
from service.jobs import Status
from tests.integration.dispatcher.conftest import STUDY, actor_of, command_of, descendants, kill, ray_cluster

pytestmark = [pytest.mark.anyio, pytest.mark.ray, pytest.mark.faults]

STALL_S = 15
"""Longer than a worker may take to answer, and shorter than the lease of a worker."""


@pytest.fixture(scope="module")
def ray_environment() -> Iterator[dict[str, str]]:
    """A cluster for these tests, without the processes that other tests have stopped and left."""
    with ray_cluster() as environment:
        yield environment


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Stop processes, and let those that are left at the end continue."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            kill(pid, signal.SIGCONT)


def actors(stack: Any) -> set[int]:
    """Return the processes of all actors in the Ray cluster."""
    return {pid for pid in descendants(stack.head) if b"ray::TrainingWorker" in command_of(pid)}


async def idle_training_process(stack: Any) -> int:
    """Return the training process of the only worker once it is idle."""

    async def there() -> int | None:
        workers = (await stack.report()).get("workers", [])
        return workers[0]["pid"] if [worker["state"] for worker in workers] == ["idle"] else None

    pid: int = await stack.until(there, "an idle worker")
    return pid


async def idle_worker(stack: Any, part: str) -> tuple[int, int]:
    """Return the process of the only worker that `part` names, and its training process, once it is idle."""
    training = await idle_training_process(stack)
    return (training if part == "training process" else actor_of(training)), training


async def until_ended(stack: Any, *pids: int) -> None:
    async def ended() -> bool | None:
        return None if any(Path(f"/proc/{pid}").exists() for pid in pids) else True

    await stack.until(ended, "the worker to end")


async def until_only_the_pool_is_left(stack: Any) -> None:
    async def there() -> bool | None:
        workers = (await stack.report()).get("workers", [])
        if any(worker["state"] == "starting" or not Path(f"/proc/{worker['pid']}").exists() for worker in workers):
            return None
        return True if actors(stack) == {actor_of(worker["pid"]) for worker in workers} else None

    await stack.until(there, "Ray to have the workers of the pool")


@pytest.mark.parametrize("part", ["training process", "actor"])
@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
async def test_an_idle_worker_that_does_not_respond_costs_the_next_job_no_attempt(
    stack: Any, part: str, fault: signal.Signals
) -> None:
    hit, training = await idle_worker(stack, part)
    os.kill(hit, fault)
    await asyncio.sleep(HEARD_S)  # a worker that was heard from more recently may still get a job
    job = await stack.wait(await stack.submit(epochs=1))
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)
    await until_ended(stack, hit, training)
    await until_only_the_pool_is_left(stack)


async def test_a_frozen_actor_gives_its_slot_back(stack: Any) -> None:
    job_id = await stack.submit(**STUDY)
    training = await stack.training_process(job_id)
    await stack.wait_for_step(job_id, 3)
    actor = actor_of(training)
    os.kill(actor, signal.SIGSTOP)
    assert (await stack.wait(job_id)).status is Status.SUCCEEDED
    assert [attempt.outcome for attempt in await stack.attempts(job_id)] == ["lost", "succeeded"]
    assert not any(Path(f"/proc/{pid}").exists() for pid in (actor, training))
    await until_only_the_pool_is_left(stack)


@pytest.mark.parametrize("part", ["training process", "actor"])
@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_worker_that_was_hit_while_no_dispatcher_ran_is_replaced(
    stack: Any, part: str, fault: signal.Signals
) -> None:
    hit, training = await idle_worker(stack, part)
    stack.dispatchers[0].kill()
    stack.dispatchers[0].wait()
    kill(hit, fault)
    stack.start_dispatcher()
    await until_ended(stack, hit, training)
    await until_only_the_pool_is_left(stack)
    assert (await stack.wait(await stack.submit(epochs=1))).attempts == 1


@pytest.mark.parametrize("with_actor", [False, True], ids=["alone", "with the actor"])
async def test_a_job_is_cancelled_while_the_head_of_ray_is_frozen(stack: Any, with_actor: bool) -> None:
    job_id = await stack.submit(epochs=500)
    training = await stack.training_process(job_id)
    await stack.wait_for_step(job_id, 3)
    head = next(pid for pid in descendants(stack.head) if b"gcs_server" in command_of(pid))
    frozen = (head, actor_of(training)) if with_actor else (head,)
    with stopped(*frozen):

        async def reported() -> bool | None:
            return True if (await stack.report())["ray"]["status"] == "unreachable" else None

        await stack.until(reported, "the dispatcher to report that Ray does not answer")
        await stack.cancel(job_id)
        assert (await stack.wait(job_id)).status is Status.CANCELLED
    assert (await stack.wait(await stack.submit(epochs=1))).status is Status.SUCCEEDED
    await until_only_the_pool_is_left(stack)


async def test_a_dispatcher_that_was_stopped_blames_no_worker(stack: Any) -> None:
    job_id = await stack.submit(**(STUDY | {"epochs": 30}))
    await stack.wait_for_step(job_id, 3)
    with stopped(stack.dispatchers[0].pid):
        await asyncio.sleep(STALL_S)
    job = await stack.wait(job_id)
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)
