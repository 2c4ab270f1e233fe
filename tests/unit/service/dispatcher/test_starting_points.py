"""Jobs start from the checkpoint of another job: an extension with its whole state, others with its weights."""

from typing import Any

import pytest

from service.dispatcher.cluster import Report, WorkerGone
from service.errors import CorruptFile
from service.jobs import Status
from service.store import checkpoints, extensions, jobs
from tests.unit.service.dispatcher.conftest import Bench, Scripted
from tests.unit.service.dispatcher.test_attempt import FILES, checkpoint, ended
from tests.unit.service.store.acting import create, started
from worker.events import Event

pytestmark = pytest.mark.anyio


async def trained(bench: Bench, **fields: Any) -> tuple[str, str]:
    """Return the ids of a succeeded job and of its checkpoint, after its only epoch."""
    run = await bench.claim(Scripted(ended(), reports=[started(), checkpoint()], files=FILES), epochs=1, **fields)
    await run.run()
    async with bench.database.read() as session:
        return run.job_id, (await checkpoints.pick(session, run.job_id, "latest")).id


async def extend(bench: Bench) -> None:
    """Queue the extension of a job."""
    job_id, _ = await trained(bench, schedule={"type": "constant"})
    async with bench.database.write() as session:
        await extensions.extend(session, job_id, 3)


async def test_the_first_attempt_of_an_extension_resumes_from_the_checkpoint_of_the_first_job(bench: Bench) -> None:
    await extend(bench)
    run = await bench.claim_next(worker := Scripted(ended(), reports=[started(1)]))
    await run.run()
    assert (worker.checkpoint, worker.initial) == (FILES, None)
    assert (await bench.job(run)).status is Status.SUCCEEDED


async def test_an_extension_whose_checkpoint_is_damaged_says_so_and_trains_from_the_first_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await extend(bench)

    def damaged(*_: Any) -> Any:
        raise CorruptFile("state.pt is damaged")

    monkeypatch.setattr(bench.artifacts, "read", damaged)
    run = await bench.claim_next(worker := Scripted(ended(), reports=[started()]))
    await run.run()
    assert worker.checkpoint is None
    assert ("warning", "did not resume from the checkpoint at step 1: state.pt is damaged") in await bench.logged(run)


async def test_a_job_begins_with_the_checkpoint_that_it_names_and_resumes_from_its_own(bench: Bench) -> None:
    _, taken = await trained(bench)
    own = {"state.pt": b"its own"}
    first = Scripted(WorkerGone("away"), reports=[started(), checkpoint(files=own)], files=own)
    await bench.run(first, init_from=taken)
    assert (first.checkpoint, first.initial) == (None, FILES)

    run = await bench.claim_next(again := Scripted(ended(), reports=[started(1)]))
    await run.run()
    assert (again.checkpoint, again.initial) == (own, None)


async def test_a_checkpoint_that_cannot_be_read_fails_the_job_that_begins_with_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, taken = await trained(bench)

    def damaged(*_: Any) -> Any:
        raise CorruptFile("state.pt is damaged")

    run = await bench.claim(Scripted(ended()), init_from=taken)
    monkeypatch.setattr(bench.artifacts, "read", damaged)
    await run.run()
    job = await bench.job(run)
    assert (job.status, job.error and job.error["code"]) == (Status.FAILED, "checkpoint")


async def test_a_checkpoint_that_a_job_begins_with_is_not_removed_while_it_is_needed(bench: Bench) -> None:
    reports: list[Event] = [started(), *(checkpoint(step) for step in (1, 2, 3))]
    first = Named(ended(), reports=reports, files=FILES)
    run = await bench.claim(first, checkpoint={"keep_last": 1})
    first.bench = bench
    await run.run()

    async with bench.database.read() as session:
        assert [one.step for one in await checkpoints.of_job(session, run.job_id)] == [3, 1]
    assert len(bench.artifacts.list_checkpoints(run.job_id)) == 2


class Named(Scripted):
    """A worker whose reports come one by one; another job begins with its first checkpoint."""

    bench: Bench

    async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        if after_seq == 2:
            async with self.bench.database.read() as session:
                job_id = (await jobs.active(session))[0].id
                taken = await checkpoints.pick(session, job_id, "latest")
            await create(self.bench.database, init_from=taken.id)
        report = await super().poll(attempt_id, after_seq, wait_s)
        return Report(report.events[:1], report.checkpoints)
