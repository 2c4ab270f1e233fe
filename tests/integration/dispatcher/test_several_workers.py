"""A job on several workers starts, ends, is lost and is resumed as a whole."""

import os
import signal
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from service.jobs import Status
from tests.integration.dispatcher import conftest
from tests.integration.dispatcher.conftest import actor_of

pytestmark = [pytest.mark.anyio, pytest.mark.ray]

PAIR = {"num_workers": 2, "batch_size": 8}
STUDY = PAIR | conftest.STUDY


async def test_two_workers_train_a_job_and_the_attempt_names_both(stack: Any) -> None:
    job_id = await stack.submit(**PAIR)
    job = await stack.wait(job_id)

    assert job.status is Status.SUCCEEDED
    assert [row.epoch for row in await stack.rows(job_id, kind="eval")] == [1, 2]
    assert [row.step for row in await stack.rows(job_id, kind="train")] == list(range(1, 17))
    assert [checkpoint.step for checkpoint in await stack.checkpoints(job_id)] == [16, 8]
    (attempt,) = await stack.attempts(job_id)
    assert len({worker["worker"] for worker in attempt.workers}) == 2
    assert await stack.history(job_id) == ["queued", "starting", "running", "succeeded"]


@pytest.mark.faults
@pytest.mark.parametrize(("rank", "part"), [(0, "training process"), (1, "training process"), (1, "actor")])
async def test_the_death_of_one_costs_the_job_what_came_after_its_last_checkpoint(
    stack: Any, rank: int, part: str
) -> None:
    job_id = await stack.submit(**STUDY)
    training = (await stack.training_processes(job_id))[rank]
    await stack.wait_for_step(job_id, 19)
    os.kill(training if part == "training process" else actor_of(training), signal.SIGKILL)
    job = await stack.wait(job_id)

    assert (job.status, job.failures) == (Status.SUCCEEDED, 0)
    first, second = await stack.attempts(job_id)
    assert (first.outcome, second.outcome) == ("lost", "succeeded")
    assert first.reason.startswith(f"rank {rank}: ")
    assert ("was ended by SIGKILL" in first.reason) == (part == "training process")
    assert second.resumed_from_step in (16, 32)
    survivor = first.workers[1 - rank]
    assert survivor in second.workers, "it was kept warm"
    assert first.workers[rank] not in second.workers
    await stack.assert_as_if_undisturbed(job_id, **STUDY)


@pytest.mark.faults
@pytest.mark.parametrize("stack", [{"WORKER_LEASE_S": 3, "WARM_WORKERS": 2}], indirect=True)
async def test_a_frozen_worker_costs_the_others_their_attempt_and_nothing_more(stack: Any) -> None:
    job_id = await stack.submit(**STUDY)
    frozen = (await stack.training_processes(job_id))[1]
    await stack.wait_for_step(job_id, 3)
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert (await stack.wait(job_id)).status is Status.SUCCEEDED
    finally:
        with suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGCONT)

    first, second = await stack.attempts(job_id)
    assert (first.outcome, second.outcome) == ("lost", "succeeded")
    assert first.reason == "rank 1: the training process has not answered for 3 s"
    assert set(Counter((row.kind, row.step) for row in await stack.rows(job_id)).values()) == {1}


@pytest.mark.faults
async def test_it_goes_on_while_its_dispatcher_is_replaced(stack: Any) -> None:
    job_id = await stack.submit(**STUDY)
    await stack.wait_for_step(job_id, 5)
    stack.dispatchers[0].kill()
    stack.dispatchers[0].wait()
    stack.start_dispatcher()
    job = await stack.wait(job_id)

    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)
    await stack.assert_as_if_undisturbed(job_id, **STUDY)


@pytest.mark.faults
async def test_a_dispatcher_that_finds_a_part_of_it_ends_that_and_queues_the_job_again(stack: Any) -> None:
    job_id = await stack.submit(**STUDY | {"epochs": 40})
    first, second = await stack.training_processes(job_id)
    await stack.wait_for_step(job_id, 3)
    stack.dispatchers[0].kill()
    stack.dispatchers[0].wait()
    os.kill(actor_of(second), signal.SIGKILL)
    stack.start_dispatcher()

    async def lost() -> Any:
        attempts = await stack.attempts(job_id)
        return attempts[0] if attempts[0].outcome else None

    attempt = await stack.until(lost, "the attempt to be lost")
    assert attempt.outcome == "lost"
    assert attempt.reason == f"worker {attempt.workers[1]['worker']} was gone when the dispatcher started again"
    await stack.wait(job_id, Status.RUNNING)
    assert first not in await stack.training_processes(job_id)
    await stack.cancel(job_id)
    await stack.wait(job_id)


async def test_a_pause_and_a_cancellation_reach_all_its_workers(stack: Any) -> None:
    job_id = await stack.submit(**STUDY)
    await stack.wait_for_step(job_id, 11)
    await stack.pause(job_id)
    await stack.resume(job_id)
    await stack.wait(job_id)
    await stack.assert_as_if_undisturbed(job_id, **STUDY)

    long = await stack.submit(**PAIR, epochs=200)
    await stack.wait_for_step(long, 3)
    await stack.cancel(long)
    assert (await stack.wait(long)).status is Status.CANCELLED
    assert (await stack.wait(await stack.submit(**PAIR, epochs=1))).status is Status.SUCCEEDED
    workers = [attempt.workers for id_ in (job_id, long) for attempt in await stack.attempts(id_)]
    assert len({worker["worker"] for group in workers for worker in group}) == 2, "the same two workers in all attempts"


async def test_a_failure_is_reported_by_the_failing_worker_and_not_by_its_peers(stack: Any) -> None:
    job_id = await stack.submit(
        **PAIR,
        normalization={"type": "none"},
        epochs=30,
        optimizer={"type": "sgd", "learning_rate": 1e18, "momentum": 0.0},
    )
    job = await stack.wait(job_id)

    assert (job.status, job.attempts, job.error["code"]) == (Status.FAILED, 1, "diverged")
    assert job.error["message"].startswith("rank ")
    assert f"at step {job.error['step']}" in job.error["message"]


async def test_small_jobs_neither_overtake_it_nor_wait_longer_than_for_its_start(stack: Any) -> None:
    running = await stack.submit(epochs=200)
    await stack.wait(running, Status.RUNNING)
    pair = await stack.submit(**PAIR, epochs=1)
    small = [await stack.submit(epochs=1) for _ in range(2)]

    async def waits() -> bool | None:
        return True if ((await stack.report())["next_up"] or {}).get("job") == pair else None

    await stack.until(waits, "the job of two workers to be the next")
    assert [(await stack.job(job_id)).status for job_id in small] == [Status.QUEUED] * 2
    await stack.cancel(running)
    started = [(await stack.wait(job_id)).started_at for job_id in (pair, *small)]
    assert started == sorted(started)


async def test_one_that_is_larger_than_the_cluster_holds_up_nobody(stack: Any) -> None:
    large = await stack.submit(num_workers=3, batch_size=8)
    small = await stack.submit(epochs=1)

    assert (await stack.wait(small)).status is Status.SUCCEEDED
    assert (await stack.job(large)).status is Status.QUEUED
