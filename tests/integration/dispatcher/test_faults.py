"""Processes that end are replaced, and no job is lost or trained twice."""

import asyncio
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.jobs import Status
from service.store import leases
from tests.integration.dispatcher.conftest import STUDY, actor_of, stat

pytestmark = [pytest.mark.anyio, pytest.mark.ray, pytest.mark.faults]

TICKS_OF_A_WAITING_PROCESS = 10


@pytest.mark.parametrize("part", ["training process", pytest.param("actor", marks=pytest.mark.faults)])
async def test_a_killed_worker_costs_the_job_what_came_after_its_last_checkpoint(stack: Any, part: str) -> None:
    job_id = await stack.submit(**STUDY)
    training = await stack.training_process(job_id)
    await stack.wait_for_step(job_id, 19)
    os.kill(training if part == "training process" else actor_of(training), signal.SIGKILL)
    job = await stack.wait(job_id)

    assert job.status is Status.SUCCEEDED
    assert job.failures == 0
    first, second = await stack.attempts(job_id)
    assert (first.outcome, second.outcome) == ("lost", "succeeded")
    assert ("was ended by SIGKILL" in first.reason) == (part == "training process")
    assert not Path(f"/proc/{training}").exists()
    assert second.resumed_from_step in (16, 32)
    assert "lost" in await stack.history(job_id)
    everything = await stack.rows(job_id, superseded=True)
    superseded = [row for row in everything if row.superseded]
    assert all(row.attempt_id == first.id and row.step > second.resumed_from_step for row in superseded)
    await stack.assert_as_if_undisturbed(job_id, **STUDY)


async def test_an_attempt_goes_on_while_its_dispatcher_is_killed_and_replaced(stack: Any) -> None:
    job_id = await stack.submit(**STUDY)
    await stack.wait_for_step(job_id, 5)
    stack.dispatchers[0].kill()
    stack.dispatchers[0].wait()
    stack.start_dispatcher()
    job = await stack.wait(job_id)

    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)
    assert await stack.history(job_id) == ["queued", "starting", "running", "succeeded"]
    await stack.assert_as_if_undisturbed(job_id, **STUDY)


@pytest.mark.faults
@pytest.mark.parametrize("stack", [{"DISPATCHER_LEASE_S": 2}], indirect=True)
async def test_a_standby_dispatcher_takes_over_and_until_then_touches_nothing(stack: Any) -> None:
    async def holder() -> str | None:
        async with stack.database.read() as session:
            lease = await leases.get(session, "dispatcher")
        return lease.holder if lease else None

    first = await stack.until(holder, "a dispatcher")
    stack.start_dispatcher()

    async def stands_by() -> bool | None:
        return True if "standing by" in Path(stack.home, "dispatcher-1.log").read_text() else None

    await stack.until(stands_by, "the second dispatcher to stand by")
    assert await holder() == first
    stack.dispatchers[0].kill()

    async def another() -> str | None:
        found = await holder()
        return found if found != first else None

    await stack.until(another, "the second dispatcher to take over")
    assert (await stack.wait(await stack.submit(epochs=1))).status is Status.SUCCEEDED


@pytest.mark.faults
@pytest.mark.parametrize("part", ["training process", "actor"])
@pytest.mark.parametrize("stack", [{"WORKER_LEASE_S": 3, "WARM_WORKERS": 2}], indirect=True)
async def test_a_frozen_worker_loses_its_job_to_another(stack: Any, part: str) -> None:
    job_id = await stack.submit(**STUDY)
    training = await stack.training_process(job_id)
    await stack.wait_for_step(job_id, 3)
    frozen = training if part == "training process" else actor_of(training)
    os.kill(frozen, signal.SIGSTOP)
    try:
        assert (await stack.wait(job_id)).status is Status.SUCCEEDED
    finally:
        with suppress(ProcessLookupError):
            os.kill(frozen, signal.SIGCONT)

    assert [attempt.outcome for attempt in await stack.attempts(job_id)] == ["lost", "succeeded"]
    assert set(Counter((row.kind, row.step) for row in await stack.rows(job_id)).values()) == {1}


@pytest.mark.faults
@pytest.mark.parametrize("stack", [{"WORKER_LEASE_S": 2}], indirect=True)
async def test_a_worker_that_nobody_polls_pauses_and_its_job_continues_from_there(stack: Any) -> None:
    job_id = await stack.submit(epochs=200, checkpoint={"every_epochs": 200})
    await stack.wait_for_step(job_id, 3)
    worker = await stack.training_process(job_id)
    stack.dispatchers[0].kill()

    async def idle() -> bool | None:
        before = spent(worker)
        await asyncio.sleep(0.5)
        return True if spent(worker) - before < TICKS_OF_A_WAITING_PROCESS else None

    await stack.until(idle, "the worker to stop training")
    stack.start_dispatcher()
    await stack.wait(job_id, Status.LOST, Status.QUEUED, Status.STARTING, Status.RUNNING)

    async def second_attempt() -> tuple[Any, Any] | None:
        found = await stack.attempts(job_id)
        return found if len(found) == 2 and found[1].device is not None else None

    first, second = await stack.until(second_attempt, "the second attempt")
    assert first.outcome == "paused"
    assert second.resumed_from_step >= 3
    await stack.cancel(job_id)
    assert (await stack.wait(job_id)).status is Status.CANCELLED


@pytest.mark.faults
@pytest.mark.parametrize("stack", [{"MAX_LOST": 2}], indirect=True)
async def test_a_job_that_keeps_losing_its_workers_fails(stack: Any) -> None:
    job_id = await stack.submit(epochs=200, checkpoint={"every_epochs": 200})
    for attempt in (1, 2):

        async def trains(number: int = attempt) -> bool | None:
            job = await stack.job(job_id)
            return True if job.attempts == number and job.status is Status.RUNNING else None

        await stack.until(trains, f"attempt {attempt}")
        os.kill(await stack.training_process(job_id), signal.SIGKILL)
    job = await stack.wait(job_id)

    assert job.status is Status.FAILED
    assert job.error["code"] == "lost"
    assert "2 times" in job.error["message"]


async def test_what_is_queued_while_no_dispatcher_runs_is_trained_when_one_does(stack: Any) -> None:
    stack.dispatchers[0].kill()
    stack.dispatchers[0].wait()
    job_id = await stack.submit(epochs=1)
    assert (await stack.job(job_id)).status is Status.QUEUED
    stack.start_dispatcher()
    assert (await stack.wait(job_id)).status is Status.SUCCEEDED


async def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(stack: Any) -> None:
    job_id = await stack.submit(epochs=4)
    await stack.wait_for_step(job_id, 10)
    await stack.pause(job_id)
    newest, before, *_ = await stack.checkpoints(job_id)
    weights = Path(stack.home, "artifacts", job_id, newest.id, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    await stack.resume(job_id)
    await stack.wait(job_id)

    assert (await stack.attempts(job_id))[1].resumed_from_step == before.step
    warnings = [event.data["message"] for event in await stack.events(job_id) if event.type == "log"]
    assert any(f"step {newest.step}" in warning for warning in warnings)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that can hold one checkpoint of resnet20, but not three."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=5M", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_fails_the_job_with_a_sentence_and_lists_no_torn_checkpoint(
    small_disk: Path, stack: Any
) -> None:
    job_id = await stack.submit(epochs=10, checkpoint={"keep_last": 10})
    job = await stack.wait(job_id)

    assert job.status is Status.FAILED
    assert job.error["code"] == "checkpoint"
    assert str(small_disk) in job.error["message"]
    listed = await stack.checkpoints(job_id)
    assert listed
    for checkpoint in listed:
        for name, file in checkpoint.files.items():
            assert Path(small_disk, job_id, checkpoint.id, name).stat().st_size == file["size"]
    assert {path.name for path in Path(small_disk, job_id).iterdir()} == {checkpoint.id for checkpoint in listed}


def spent(pid: int) -> int:
    """Return the CPU time of a process, in clock ticks."""
    fields = stat(pid)
    return int(fields[11]) + int(fields[12])
