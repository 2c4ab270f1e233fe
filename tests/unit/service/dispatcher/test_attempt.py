"""The phases of an attempt, from its preparation to the release of its workers, on one worker or several."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from service.dispatcher.cluster import DatasetError, WorkerGone
from service.dispatcher.leadership import LeadershipLost
from service.errors import StorageUnavailable
from service.jobs import Status
from service.store import attempts, checkpoints, jobs, metrics
from tests.unit.service.dispatcher.conftest import Bench, Scripted
from tests.unit.service.store.acting import row, started
from worker.events import CheckpointTaken, Event, Failure, File, Finished, Outcome

pytestmark = pytest.mark.anyio

FILES = {"state.pt": b"the state"}


def ended(outcome: Outcome = "succeeded") -> Finished:
    return Finished(outcome=outcome)


def failed(code: Any, message: str) -> Finished:
    return Finished(outcome="failed", failure=Failure(code=code, message=message, may_pass=True))


PEER = failed("peer", "rank 0 of 3 lost the others")


def checkpoint(step: int = 1, files: Mapping[str, bytes] = FILES) -> CheckpointTaken:
    described = {
        name: File(size=len(content), sha256=hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }
    return CheckpointTaken(epoch=1, step=step, metrics={}, files=described)


def sometimes(function: Callable[..., Any], error: Exception, failures: int = 1) -> Callable[..., Any]:
    """Wrap a function so that its first calls raise `error`."""
    left = [error] * failures

    def call(*arguments: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return function(*arguments, **options)

    return call


async def test_a_worker_by_itself_meets_nobody(bench: Bench) -> None:
    worker = Scripted(ended(), reports=[started()])
    attempt = await bench.run(worker)
    assert worker.asked == ["start 0"]
    assert attempt.outcome == "succeeded"
    assert bench.idle() == {"worker-0"}


async def test_the_first_starts_first_and_the_others_where_it_listens(bench: Bench) -> None:
    asked: list[str] = []
    workers = [Scripted(ended(), reports=[started()], asked=asked) for _ in range(3)]
    attempt = await bench.run(*workers)
    assert asked[:3] == ["receive"] * 3
    assert asked[3:5] == ["start 0", "rendezvous"]
    assert sorted(asked[5:]) == ["start 1 10.0.0.1:7", "start 2 10.0.0.1:7"]
    assert attempt.outcome == "succeeded"
    assert bench.idle() == {"worker-0", "worker-1", "worker-2"}


async def test_the_reports_of_the_first_are_recorded_and_those_of_the_others_are_not(bench: Bench) -> None:
    workers = [Scripted(ended(), reports=[started(), row(step)]) for step in (1, 2)]
    run = await bench.claim(*workers)
    await run.run()
    async with bench.database.read() as session:
        assert [one.step for one in await metrics.rows(session, run.job_id)] == [1]
    assert (await bench.job(run)).status is Status.SUCCEEDED


async def test_those_who_never_began_are_kept_and_those_who_did_not_end_are_not(bench: Bench) -> None:
    attempt = await bench.run(waiting := Scripted(None), away := Scripted(None, receives=False))
    assert "start" not in " ".join(waiting.asked + away.asked)
    assert (attempt.outcome, attempt.reason) == ("lost", "rank 1: no space for the images")
    assert bench.idle() == {"worker-0"}
    assert (waiting.killed, away.killed) == (False, True)


async def test_those_who_failed_for_want_of_a_peer_are_kept_and_those_who_did_not_end_are_not(bench: Bench) -> None:
    workers = [Scripted(PEER), Scripted(None), Scripted(WorkerGone("ended by SIGKILL"))]
    attempt = await bench.run(*workers)
    assert (attempt.outcome, attempt.reason) == ("lost", "rank 2: ended by SIGKILL")
    assert bench.idle() == {"worker-0"}
    assert [worker.killed for worker in workers] == [False, True, True]


async def test_what_nccl_leaves_of_a_failure_is_not_used_again(bench: Bench) -> None:
    gpu = "cuda:0 (H200)"
    attempt = await bench.run(Scripted(PEER, device=gpu), Scripted(failed("diverged", "nan"), device=gpu))
    assert (attempt.outcome, attempt.reason) == ("failed", "rank 1: nan")
    assert bench.idle() == set()


async def test_a_worker_by_itself_is_used_again_after_a_failure_on_any_device(bench: Bench) -> None:
    attempt = await bench.run(Scripted(failed("diverged", "nan"), reports=[started()], device="cuda:0"))
    assert (attempt.outcome, attempt.reason) == ("failed", "nan")
    assert bench.idle() == {"worker-0"}


@pytest.mark.parametrize("may_pass", [True, False])
async def test_a_gpu_whose_memory_others_use_is_not_the_next_that_is_tried(bench: Bench, may_pass: bool) -> None:
    failure = Failure(code="out_of_memory", message="no memory", may_pass=may_pass)
    await bench.run(Scripted(Finished(outcome="failed", failure=failure), reports=[started()], device="cuda:0"))
    assert bench.idle() == (set() if may_pass else {"worker-0"})


async def test_the_loss_of_a_single_worker_is_reported_without_a_rank(bench: Bench) -> None:
    attempt = await bench.run(worker := Scripted(WorkerGone("ended by SIGKILL"), reports=[started()]))
    assert (attempt.outcome, attempt.reason) == ("lost", "ended by SIGKILL")
    assert worker.killed


async def test_a_checkpoint_that_is_being_stored_is_stored_before_the_attempt_is_given_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, storing, stored = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    write = bench.artifacts.write

    def slowly(*arguments: Any) -> None:
        loop.call_soon_threadsafe(storing.set)
        asyncio.run_coroutine_threadsafe(stored.wait(), loop).result()
        write(*arguments)

    monkeypatch.setattr(bench.artifacts, "write", slowly)

    class GoneWhileStoring(Scripted):
        async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Any:
            await storing.wait()
            loop.call_later(0.1, stored.set)
            raise WorkerGone("away")

    run = await bench.claim(Scripted(None, reports=[started(), checkpoint()], files=FILES), GoneWhileStoring(None))
    await run.run()
    assert (await bench.attempt(run)).outcome == "lost"
    async with bench.database.read() as session:
        assert [one.step for one in await checkpoints.of_job(session, run.job_id)] == [1]


async def test_a_defect_is_not_taken_for_a_lost_worker(bench: Bench) -> None:
    workers = Scripted(ZeroDivisionError()), Scripted(ended())
    attempt = await bench.run(*workers)
    assert attempt.outcome == "failed"
    assert attempt.reason == "the dispatcher failed at this attempt: ZeroDivisionError()"
    assert bench.idle() == set()
    assert all(worker.killed for worker in workers)


@pytest.mark.parametrize("num_workers", [1, 2])
async def test_an_end_that_cannot_be_recorded_fails_the_job_and_frees_the_slots(bench: Bench, num_workers: int) -> None:
    workers = [Scripted(ended()) for _ in range(num_workers)]
    attempt = await bench.run(*workers)
    assert attempt.outcome == "failed", "a job that never started running cannot succeed"
    assert attempt.reason is not None
    assert attempt.reason.startswith("the dispatcher failed at this attempt: AssertionError")
    assert bench.pool.report() == []
    assert all(worker.killed for worker in workers)


async def test_a_spec_that_cannot_be_read_fails_the_job_and_costs_no_worker(bench: Bench) -> None:
    worker = Scripted(ended())
    run = await bench.claim(worker)
    run._stored_spec = run._stored_spec | {"epochs": -1}
    await run.run()
    job = await bench.job(run)
    assert job.error is not None
    assert (job.status, job.error["code"]) == (Status.FAILED, "invalid")
    assert "epochs" in job.error["message"]
    assert worker.asked == []
    assert bench.idle() == {"worker-0"}


async def test_a_dataset_that_cannot_be_loaded_fails_the_job_and_costs_no_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Any:
        raise DatasetError("not CIFAR-10")

    monkeypatch.setattr(bench.images, "get", broken)
    run = await bench.claim(Scripted(ended()))
    await run.run()
    job = await bench.job(run)
    assert job.error == {"code": "dataset", "message": "not CIFAR-10", "step": None}
    assert bench.idle() == {"worker-0"}


async def cancelled(bench: Bench, run: Any) -> None:
    """Cancel the job, as a user and the dispatcher do."""
    async with bench.database.write() as session:
        await jobs.cancel(session, run.job_id)
    run.request("cancel")


async def test_a_cancellation_ends_the_wait_for_a_dataset(bench: Bench) -> None:
    bench.images.loaded.clear()
    run = await bench.claim(worker := Scripted(ended()))
    running = asyncio.create_task(run.run())
    await bench.images.asked.wait()
    await cancelled(bench, run)
    await running
    assert (await bench.job(run)).status is Status.CANCELLED
    assert (await bench.attempt(run)).reason == "cancelled before it started"
    assert [line for line in worker.asked if line.startswith("start")] == []
    assert bench.idle() == {"worker-0"}


async def resumable(bench: Bench) -> None:
    """Queue a job with a checkpoint again."""
    await bench.run(Scripted(WorkerGone("away"), reports=[started(), checkpoint()], files=FILES))


async def test_it_resumes_from_the_last_checkpoint(bench: Bench) -> None:
    await resumable(bench)
    run = await bench.claim_next(worker := Scripted(ended(), reports=[started(1)]))
    await run.run()
    assert worker.checkpoint == FILES


async def test_it_waits_for_the_artifact_store_to_resume(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await resumable(bench)
    read = sometimes(bench.artifacts.read, StorageUnavailable("away"), failures=3)
    monkeypatch.setattr(bench.artifacts, "read", read)
    run = await bench.claim_next(worker := Scripted(ended(), reports=[started(1)]))
    await run.run()
    assert worker.checkpoint == FILES
    assert (await bench.attempt(run)).outcome == "succeeded"


async def test_a_cancellation_ends_the_wait_for_the_artifact_store(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await resumable(bench)
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def away(*_: Any) -> Any:
        loop.call_soon_threadsafe(asked.set)
        raise StorageUnavailable("away")

    monkeypatch.setattr(bench.artifacts, "read", away)
    run = await bench.claim_next(Scripted(ended()))
    running = asyncio.create_task(run.run())
    await asked.wait()
    await cancelled(bench, run)
    await running
    assert (await bench.job(run)).status is Status.CANCELLED
    assert bench.idle() == {"worker-0"}


async def test_what_was_requested_before_the_start_is_requested_again_after_it(bench: Bench) -> None:
    bench.images.loaded.clear()
    run = await bench.claim(worker := Scripted(ended(), reports=[started()]))
    running = asyncio.create_task(run.run())
    await bench.images.asked.wait()
    for _ in range(2):
        run.request("pause")
    bench.images.loaded.set()
    await running
    assert worker.requested == ["pause", "pause"], "once before the start and once after it"


async def test_an_attempt_waits_for_an_unavailable_database_while_the_lease_is_renewed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = await bench.claim(worker := Scripted(ended(), reports=[started(), row(1)]))
    monkeypatch.setattr(bench.database, "write", sometimes(bench.database.write, OSError("away"), failures=3))
    with caplog.at_level("WARNING"):
        await run.run()
    assert worker.polls == [(0, 2.0), *[(0, 0)] * 3], "nothing is acknowledged before it is recorded"
    assert caplog.text.count("not recorded, will try again: away") == 3
    async with bench.database.read() as session:
        assert [one.step for one in await metrics.rows(session, run.job_id)] == [1]
    assert (await bench.attempt(run)).outcome == "succeeded"


async def test_a_worker_lost_during_an_outage_of_the_database_ends_the_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LostLater(Scripted):
        async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Any:
            if self.polls:
                raise WorkerGone("ended by SIGKILL")
            return await super().poll(attempt_id, after_seq, wait_s)

    run = await bench.claim(LostLater(ended(), reports=[started()]))
    monkeypatch.setattr(bench.database, "write", sometimes(bench.database.write, OSError("away"), failures=2))
    await run.run()
    assert (await bench.attempt(run)).reason == "ended by SIGKILL"


async def test_a_job_that_has_another_attempt_ends_this_one(bench: Bench) -> None:
    run = await bench.claim(worker := Scripted(ended(), reports=[started()]))
    async with bench.database.write() as session:
        await attempts.lose(session, run.attempt_id, "presumed lost", max_lost=3)
    await run.run()
    assert (await bench.attempt(run)).reason == "presumed lost"
    assert (await bench.job(run)).status is Status.QUEUED
    assert worker.killed
    assert bench.idle() == set()


async def test_an_adopted_attempt_is_followed_from_where_it_was_recorded(bench: Bench) -> None:
    worker = Scripted(ended(), reports=[started(), row(1)])
    run = await bench.claim(worker)
    async with bench.database.write() as session:
        await attempts.record(session, run.attempt_id, worker._events[:1], {})
    run._recorded_seq = 1
    await run.run(adopted=True)
    assert worker.asked == []
    assert worker.polls[0] == (1, 2.0)
    assert (await bench.attempt(run)).outcome == "succeeded"


async def test_a_dispatcher_that_was_replaced_writes_nothing_and_leaves_the_workers_alone(bench: Bench) -> None:
    run = await bench.claim(worker := Scripted(ended(), reports=[started(), row(1)]))
    await bench.replace_leader()
    with pytest.raises(LeadershipLost):
        await run.run()
    attempt = await bench.attempt(run)
    assert (attempt.outcome, attempt.last_seq) == (None, 0)
    assert not worker.killed


async def test_a_dispatcher_that_stops_leaves_the_attempt_to_the_next_one(bench: Bench) -> None:
    recorded = asyncio.Event()

    class Recorded(Scripted):
        async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Any:
            if after_seq:
                recorded.set()
            return await super().poll(attempt_id, after_seq, wait_s)

    worker = Recorded(None, reports=[started()])
    run = await bench.claim(worker)
    running = asyncio.create_task(run.run())
    await recorded.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    attempt = await bench.attempt(run)
    assert (attempt.outcome, attempt.last_seq, worker.killed) == (None, 1, False)


async def test_a_dispatcher_that_stops_waits_until_its_calls_have_ended(bench: Bench) -> None:
    polled, left = asyncio.Event(), asyncio.Event()

    class Unwinding(Scripted):
        async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Any:
            polled.set()
            try:
                return await super().poll(attempt_id, after_seq, wait_s)
            finally:
                for _ in range(3):
                    await asyncio.sleep(0)
                left.set()

    run = await bench.claim(Unwinding(None))
    running = asyncio.create_task(run.run())
    await polled.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert left.is_set()


async def test_no_more_checkpoints_are_kept_than_the_spec_says(bench: Bench) -> None:
    reports: list[Event] = [started(), *(checkpoint(step) for step in (1, 2, 3))]
    run = await bench.claim(Scripted(ended(), reports=reports, files=FILES), checkpoint={"keep_last": 1})
    await run.run()
    async with bench.database.read() as session:
        kept = [one.id for one in await checkpoints.of_job(session, run.job_id)]
    assert len(kept) == 1
    assert list(bench.artifacts.list_checkpoints(run.job_id)) == kept


async def test_a_job_starts_in_the_precision_that_its_workers_allow(bench: Bench) -> None:
    worker = Scripted(ended(), reports=[started()])
    run = await bench.claim(worker)
    await run.run()
    assert (worker.asked, worker.precision) == (["start 0"], "float32"), "without a measurement"
    assert (await bench.job(run)).precision == "float32"


async def test_a_precision_that_the_job_names_is_passed_on_without_a_measurement(bench: Bench) -> None:
    worker = Scripted(ended(), reports=[started()], faster=3.0)
    await bench.run(worker, precision="float32")
    assert (worker.asked, worker.precision) == (["start 0"], "float32")


@pytest.mark.parametrize(
    ("faster", "precision", "reason"),
    [
        (1.6, "bfloat16", "bfloat16, 1.6 times as fast as float32 here"),
        (0.2, "float32", "float32, because bfloat16 is only 0.2 times as fast here"),
    ],
)
async def test_on_cpus_with_bfloat16_the_first_worker_measures_which_is_faster(
    bench: Bench, faster: float, precision: str, reason: str
) -> None:
    workers = [Scripted(ended(), reports=[started()], faster=faster) for _ in range(2)]
    run = await bench.claim(*workers)
    await run.run()
    assert [one for one in workers[0].asked if one.startswith("compare")] == ["compare resnet20 8"]
    assert not [one for one in workers[1].asked if one.startswith("compare")]
    assert [worker.precision for worker in workers] == [precision, precision]
    assert (await bench.job(run)).precision == precision
    assert ("info", f"the precision auto is resolved to {reason}") in await bench.logged(run)
    (step,) = bench.precisions.report()
    assert (step.model, step.batch_size, step.float32_s) == ("resnet20", 8, 1.0)


async def test_a_later_attempt_keeps_the_precision_on_workers_of_another_kind(bench: Bench) -> None:
    run = await bench.claim(Scripted(WorkerGone("ended by SIGKILL"), faster=1.6))
    await run.run()
    worker = Scripted(ended(), reports=[started()])
    again = await bench.claim_next(worker)
    await again.run()
    assert again.job_id == run.job_id
    assert (worker.asked, worker.precision) == (["start 0"], "bfloat16")


async def test_a_worker_that_is_lost_while_it_measures_ends_the_attempt(bench: Bench) -> None:
    class Lost(Scripted):
        async def compare_precisions(self, model: str, batch_size: int) -> Any:
            raise WorkerGone("ended by SIGILL")

    worker = Lost(None, faster=1.6)
    run = await bench.claim(worker)
    await run.run()
    assert (await bench.attempt(run)).outcome == "lost"
    assert ((await bench.job(run)).status, (await bench.job(run)).precision) == (Status.QUEUED, None)
    assert worker.killed


async def test_a_job_can_be_cancelled_while_its_precision_is_measured(bench: Bench) -> None:
    measuring = asyncio.Event()

    class Slow(Scripted):
        async def compare_precisions(self, model: str, batch_size: int) -> Any:
            measuring.set()
            await asyncio.Event().wait()

    run = await bench.claim(Slow(None, faster=1.6))
    task = asyncio.create_task(run.run())
    await measuring.wait()
    async with bench.database.write() as session:
        await jobs.cancel(session, run.job_id)
    run.request("cancel")
    await task
    assert (await bench.job(run)).status is Status.CANCELLED
    assert bench.idle() == {"worker-0"}


async def test_the_measurements_of_an_experiment_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.dispatcher.precisions.LIMIT_S", 0)
    worker = Scripted(None, faster=1.6)
    found = await bench.precisions.measure({("resnet20", 2): 5, ("resnet20", 32): 5}, worker)
    assert (worker.asked, found.precision) == (["compare resnet20 2"], "bfloat16")
