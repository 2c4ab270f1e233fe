"""Writes of an attempt wait for the storage, and are made by the active dispatcher only."""

import asyncio
from typing import Any

import pytest

from service.dispatcher.cluster import WorkerGone
from service.dispatcher.leadership import LeadershipLost
from service.errors import CorruptFile, StorageFull
from service.jobs import Status
from service.store import checkpoints
from tests.unit.service.dispatcher.conftest import Bench, Scripted
from tests.unit.service.dispatcher.test_attempt import FILES, checkpoint, ended, resumable, sometimes
from tests.unit.service.store.acting import started
from worker.events import Failure, Finished

pytestmark = pytest.mark.anyio


async def test_a_write_to_a_full_disk_is_tried_three_times_and_logged_each_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await bench.claim(worker := Scripted(ended(), reports=[started(), checkpoint()], files=FILES))
    tries: list[str] = []

    def full(_job_id: str, checkpoint_id: str, *_: Any) -> None:
        tries.append(checkpoint_id)
        raise StorageFull("the disk is full")

    monkeypatch.setattr(bench.artifacts, "write", full)
    await run.run()
    job = await bench.job(run)
    assert job.error == {"code": "checkpoint", "message": "the disk is full", "step": None}
    assert (job.status, len(tries), len(set(tries))) == (Status.FAILED, 3, 1)
    assert await bench.logged(run) == [("error", "the disk is full")] * 3
    assert worker.killed, "it would train on"


async def test_a_disk_that_is_full_for_a_moment_costs_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await bench.claim(Scripted(ended(), reports=[started(), checkpoint()], files=FILES))
    monkeypatch.setattr(bench.artifacts, "write", sometimes(bench.artifacts.write, StorageFull("full"), failures=2))
    await run.run()
    assert (await bench.attempt(run)).outcome == "succeeded"
    async with bench.database.read() as session:
        assert [one.step for one in await checkpoints.of_job(session, run.job_id)] == [1]


async def test_a_damaged_checkpoint_is_passed_over_and_said_to_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await resumable(bench)
    monkeypatch.setattr(bench.artifacts, "read", sometimes(bench.artifacts.read, CorruptFile("its sha256 differs")))
    run = await bench.claim_next(worker := Scripted(ended(), reports=[started()]))
    await run.run()
    assert worker.checkpoint is None
    message = "did not resume from the checkpoint at step 1: its sha256 differs"
    assert await bench.logged(run) == [("warning", message)]


@pytest.mark.parametrize(
    "outcome",
    [
        Finished(seq=1, outcome="succeeded"),
        WorkerGone("away"),
        Failure(code="exception", message="?", may_pass=False),
    ],
)
async def test_an_end_is_recorded_once_the_database_is_there_and_not_for_another_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, outcome: Any
) -> None:
    run = await bench.claim(Scripted(None))
    storage = run._storage
    await storage.record(
        [started().model_copy(update={"seq": 1})],
        fetched,
        keep_last=1,
        exclusive=asyncio.Lock(),
        before_retry=nothing,
    )
    if isinstance(outcome, Finished):
        outcome = outcome.model_copy(update={"seq": 2})
    monkeypatch.setattr(bench.database, "write", sometimes(bench.database.write, OSError("away"), failures=2))
    await storage.end(outcome)
    first = await bench.attempt(run)
    assert first.ended_at is not None
    await storage.end(WorkerGone("a second time"))
    assert (await bench.attempt(run)).reason == first.reason


async def fetched(_seq: int) -> dict[str, bytes]:
    return FILES


async def nothing() -> None:
    pass


async def test_none_of_its_writes_is_made_once_another_dispatcher_is_active(bench: Bench) -> None:
    run = await bench.claim(Scripted(None))
    storage = run._storage
    await bench.replace_leader()
    with pytest.raises(LeadershipLost):
        await storage.log("a line", "info")
    with pytest.raises(LeadershipLost):
        await storage.end(WorkerGone("away"))
    with pytest.raises(LeadershipLost):
        await storage.record([started()], fetched, keep_last=1, exclusive=asyncio.Lock(), before_retry=nothing)
    assert await bench.logged(run) == []
    assert (await bench.attempt(run)).outcome is None


async def test_a_line_in_the_background_is_logged_or_its_loss_is(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    run = await bench.claim(Scripted(None))
    storage = run._storage
    storage.log_soon("downloading")
    await asyncio.gather(*storage._logging)
    assert await bench.logged(run) == [("info", "downloading")]
    await bench.replace_leader()
    storage.log_soon("downloaded")
    with caplog.at_level("WARNING"):
        await asyncio.gather(*storage._logging, return_exceptions=True)
        await asyncio.sleep(0)
    assert "a line is missing from the log of the job" in caplog.text
