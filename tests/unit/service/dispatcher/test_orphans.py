"""Files of checkpoints without a row are removed, and those of a running attempt are not."""

import pytest

from service.dispatcher.orphans import checkpoint_id, remove_orphans
from service.errors import StorageUnavailable
from service.store import Database, checkpoints
from tests.unit.service.artifacts.test_local import EXPECTED
from tests.unit.service.artifacts.test_local import FILES as STORED
from tests.unit.service.dispatcher.conftest import Bench, Scripted
from tests.unit.service.dispatcher.test_attempt import FILES, checkpoint, ended
from tests.unit.service.store.acting import started
from worker.events import Finished

pytestmark = pytest.mark.anyio


async def rows(database: Database, job_id: str) -> list[str]:
    async with database.read() as session:
        return [row.id for row in await checkpoints.of_job(session, job_id)]


async def test_the_end_of_an_attempt_removes_its_files_without_a_row_and_no_others(bench: Bench) -> None:
    run = await bench.claim(Scripted(ended(), reports=[started(), checkpoint()], files=FILES))
    torn, next_one = checkpoint_id(run.attempt_id, 7), checkpoint_id("attempt_zzz", 9)
    for id_ in (torn, next_one):
        bench.artifacts.write(run.job_id, id_, STORED, EXPECTED)
    await run.run()
    assert list(bench.artifacts.list_checkpoints(run.job_id)) == [*await rows(bench.database, run.job_id), next_one]


async def test_a_new_dispatcher_removes_all_but_those_of_running_attempts(bench: Bench) -> None:
    ran = await bench.claim(Scripted(Finished(outcome="succeeded"), reports=[started(), checkpoint()], files=FILES))
    await ran.run()
    running = await bench.claim(Scripted(None))
    written = checkpoint_id(running.attempt_id, 7)
    for job_id, id_ in ((ran.job_id, checkpoint_id(ran.attempt_id, 7)), (running.job_id, written), ("job_1", "gone")):
        bench.artifacts.write(job_id, id_, STORED, EXPECTED)
    await remove_orphans(bench.database, bench.artifacts)
    assert bench.artifacts.list_jobs() == sorted([ran.job_id, running.job_id])
    assert list(bench.artifacts.list_checkpoints(ran.job_id)) == await rows(bench.database, ran.job_id) != []
    assert bench.artifacts.list_checkpoints(running.job_id) == [written]


async def test_a_store_that_does_not_answer_delays_the_removal_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = await bench.claim(Scripted(ended(), reports=[started()]))

    def away(*_: object) -> None:
        raise StorageUnavailable("the bucket is away")

    for method in ("keep_only", "list_jobs"):
        monkeypatch.setattr(bench.artifacts, method, away)
    await run.run()
    assert (await bench.attempt(run)).outcome == "succeeded"
    await remove_orphans(bench.database, bench.artifacts)
    assert caplog.text.count("files without a row are not removed: the bucket is away") == 2
