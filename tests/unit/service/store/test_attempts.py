"""Attempts: claims of jobs, idempotent reports, and the limits of losses and retries."""

import asyncio
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import update

from service.jobs import Status
from service.store import Database, attempts, checkpoints, events, jobs
from service.store.attempts import Fenced, FreeWorker, NotEnoughWorkers, Pending
from service.store.tables import Job
from tests.unit.service.store.acting import (
    FINAL,
    PASSING,
    Worker,
    checkpoint_taken,
    create,
    history,
    live_rows,
    request,
    row,
    started,
    status,
)
from worker.events import Event, Failure, Finished, Log, Metrics, Progress, Usage

pytestmark = pytest.mark.anyio


async def claim(database: Database, name: str = "worker-1") -> str | None:
    async with database.write() as session:
        claimed = await attempts.claim(session, [FreeWorker(name, "node-1")])
        assert not isinstance(claimed, NotEnoughWorkers)
        return claimed and claimed[0].id


async def let_the_delay_pass(database: Database, job_id: str) -> None:
    async with database.write() as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await session.execute(update(Job).where(Job.id == job_id).values(not_before=past))


async def test_the_highest_priority_goes_first_then_the_longest_waiting(database: Database) -> None:
    ordinary = [await create(database) for _ in range(3)]
    low = await create(database, priority=-1)
    urgent = [await create(database, priority=5) for _ in range(2)]
    assert [await claim(database) for _ in range(7)] == [*urgent, *ordinary, low, None]


class TestSharing:
    """Experiments of equal priority share the workers; all jobs without an experiment count as one more."""

    @staticmethod
    async def experiment(database: Database, name: str, jobs_of_it: int, **fields: object) -> None:
        async with database.write() as session:
            cells = [(f"cell {number}", request(**fields)) for number in range(jobs_of_it)]
            await jobs.create_all(session, cells, name)

    @staticmethod
    async def served(database: Database) -> str | None:
        """Return which experiment gets the next worker."""
        job_id = await claim(database)
        async with database.read() as session:
            return None if job_id is None else (await jobs.get(session, job_id)).experiment_id or "none"

    async def test_the_one_with_the_fewest_workers_goes_first(self, database: Database) -> None:
        await self.experiment(database, "large", 5)
        await self.experiment(database, "small", 2)
        for _ in range(2):
            await create(database)
        order = [await self.served(database) for _ in range(10)]
        assert order == ["large", "small", "none", "large", "small", "none", "large", "large", "large", None]

    async def test_a_single_worker_is_shared_in_turn(self, database: Database) -> None:
        await self.experiment(database, "large", 30)
        order = []
        for number in range(20):
            if number == 10:
                await self.experiment(database, "late", 3)
            worker = await Worker.run(database)
            async with database.read() as session:
                order.append((await jobs.get(session, worker.job)).experiment_id)
            await worker.finish()
        assert order[:10] == ["large"] * 10
        assert order[10:13] == ["late"] * 3, "it has had less of the last claims than the other"
        assert order[13:] == ["large"] * 7

    async def test_priority_goes_before_sharing(self, database: Database) -> None:
        await self.experiment(database, "ordinary", 2)
        await self.experiment(database, "urgent", 3, priority=1)
        order = [await self.served(database) for _ in range(5)]
        assert order == ["urgent"] * 3 + ["ordinary"] * 2

    async def test_what_waits_for_its_delay_is_passed_over(self, database: Database) -> None:
        await self.experiment(database, "failing", 1, priority=5)
        await self.experiment(database, "other", 1)
        await (await Worker.run(database)).fail(PASSING)
        assert [await self.served(database) for _ in range(2)] == ["other", None]

    async def test_in_order_within_an_experiment(self, database: Database) -> None:
        async with database.write() as session:
            ids = await jobs.create_all(session, [(f"cell {n}", request(seed=n)) for n in range(5)], "one")
        assert [await claim(database) for _ in range(5)] == list(ids)


class TestSeveralWorkers:
    """A job claims all of its workers or none; no job overtakes it, and it cannot block the queue forever."""

    @staticmethod
    async def give(
        database: Database, free: int, slots: int | None = None, next_up: str | None = None
    ) -> str | NotEnoughWorkers | None:
        """Return the job that is assigned to some of the `free` workers."""
        async with database.write() as session:
            workers = [FreeWorker(f"worker-{number}", f"node-{number}") for number in range(free)]
            given = await attempts.claim(session, workers, slots=slots, next_up=next_up)
        return given[0].id if isinstance(given, tuple) else given

    async def test_it_takes_as_many_as_it_needs_and_names_them_by_rank(self, database: Database) -> None:
        job_id = await create(database, num_workers=2)
        assert await self.give(database, free=3) == job_id
        async with database.read() as session:
            (attempt,) = await jobs.attempts(session, job_id)
        assert attempt.workers == [{"worker": f"worker-{n}", "node": f"node-{n}"} for n in range(2)]

    async def test_one_worker_alone_is_named_the_same_way(self, database: Database) -> None:
        job_id = await create(database)
        await self.give(database, free=3)
        async with database.read() as session:
            (attempt,) = await jobs.attempts(session, job_id)
        assert attempt.workers == [{"worker": "worker-0", "node": "node-0"}]

    async def test_where_too_few_are_free_it_takes_none_and_nobody_overtakes_it(self, database: Database) -> None:
        running = await Worker.run(database) if await create(database) else None
        large = await create(database, num_workers=2)
        small = await create(database)
        assert await self.give(database, free=1, slots=2) == NotEnoughWorkers(large, 2)
        assert await status(database, large) is Status.QUEUED
        assert running is not None
        await running.finish()
        assert await self.give(database, free=2, slots=2) == large
        assert await self.give(database, free=1, slots=2) == small

    async def test_the_next_stays_the_next_while_others_get_fewer_workers(self, database: Database) -> None:
        await TestSharing.experiment(database, "one", 1)
        await self.give(database, free=1)
        async with database.write() as session:
            (large,) = await jobs.create_all(session, [("large", request(num_workers=2))], "one")
        assert await self.give(database, free=1) == NotEnoughWorkers(large, 2)
        await TestSharing.experiment(database, "other", 1)
        # "other" has no worker and would go first.
        assert await self.give(database, free=1, next_up=large) == NotEnoughWorkers(large, 2)
        assert isinstance(await self.give(database, free=1), str)

    async def test_a_higher_priority_goes_before_the_next(self, database: Database) -> None:
        large = await create(database, num_workers=2)
        urgent = await create(database, priority=1)
        assert await self.give(database, free=1, next_up=large) == urgent

    async def test_what_needs_more_than_there_are_slots_is_passed_over_until_there_are(
        self, database: Database
    ) -> None:
        large = await create(database, num_workers=3)
        small = await create(database)
        assert await self.give(database, free=2, slots=2) == small
        assert await self.give(database, free=1, slots=2) is None
        assert await self.give(database, free=3, slots=3) == large

    async def test_a_job_counts_for_its_experiment_with_all_its_workers(self, database: Database) -> None:
        await TestSharing.experiment(database, "wide", 2, num_workers=3)
        await TestSharing.experiment(database, "narrow", 4)
        for _ in range(2):
            await self.give(database, free=3)
        order = [await TestSharing.served(database) for _ in range(2)]
        assert order == ["narrow"] * 2, "three workers against two"

    async def test_the_dispatcher_sees_how_many_workers_are_waited_for(self, database: Database) -> None:
        for num_workers in (1, 2, 5):
            await create(database, num_workers=num_workers)
        async with database.read() as session:
            found = await attempts.pending(session, limit=10, largest=4)
        assert sorted(job.num_workers for job in found) == [1, 2]


async def test_a_resumed_job_keeps_its_place_in_the_queue(database: Database) -> None:
    first, second = await create(database), await create(database)
    async with database.write() as session:
        await jobs.pause(session, first)
        await jobs.resume(session, first)
    assert [await claim(database), await claim(database)] == [first, second]


async def test_claimers_at_once_never_get_one_job(database: Database) -> None:
    created = {await create(database) for _ in range(5)}
    async with Database(database.url.render_as_string(hide_password=False)) as another_process:
        claimed = await asyncio.gather(*(claim(db, f"w{n}") for n in range(4) for db in (database, another_process)))
    got = [job_id for job_id in claimed if job_id is not None]
    assert sorted(got) == sorted(created)
    assert claimed.count(None) == 3


async def test_a_claim_names_the_attempt_and_its_worker(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.claim(database, "gpu-7")
    await worker.start(resumed_from_step=0)
    async with database.read() as session:
        (attempt,) = await jobs.attempts(session, job_id)
        assert (attempt.id, attempt.number) == (worker.attempt, 1)
        assert attempt.workers == [{"worker": "gpu-7", "node": "node-1"}]
        assert (attempt.device, attempt.versions, attempt.ended_at) == ("cpu", {"torch": "2.13.0"}, None)
        (held,) = await attempts.active(session)
        assert (held[0].id, held[1].id) == (job_id, worker.attempt)
        assert await attempts.pending(session, limit=10, largest=8) == []
    await worker.finish()
    async with database.read() as session:
        assert await attempts.active(session) == []
        (attempt,) = await jobs.attempts(session, job_id)
        assert (attempt.outcome, attempt.reason) == ("succeeded", None)
        assert attempt.ended_at is not None


async def test_an_attempt_keeps_the_usage_that_it_reported_last(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.run(database)
    at_work = Usage(cpu_s=1.5, peak_memory_bytes=2**33, peak_gpu_memory_bytes=2**34, gpu_utilization=0.5)
    await worker.report(Progress(epoch=1, step=1, usage=at_work), Progress(epoch=1, step=2))
    await worker.lose()
    last = await Worker.run(database)
    await last.report(Progress(epoch=1, step=1, usage=at_work))
    await last.report(Finished(outcome="succeeded", usage=Usage(cpu_s=3.5, peak_memory_bytes=2**34)))
    async with database.read() as session:
        found = await jobs.attempts(session, job_id)
        assert [
            (one.cpu_s, one.peak_memory_bytes, one.peak_gpu_memory_bytes, one.gpu_utilization) for one in found
        ] == [(1.5, 2**33, 2**34, 0.5), (3.5, 2**34, None, None)]
        progress = (await jobs.get(session, job_id)).progress
    assert progress is not None
    assert "usage" not in progress


async def test_the_dispatcher_sees_every_request_and_of_the_waiting_jobs_as_many_as_it_can_use(
    database: Database,
) -> None:
    asked = await create(database)
    await Worker.claim(database, "gpu-1")
    async with database.write() as session:
        await jobs.cancel(session, asked)
    for _ in range(3):
        await create(database)
    async with database.read() as session:
        for limit, expected in ((1, 1), (2, 2), (10, 3)):
            found = await attempts.pending(session, limit, largest=1)
            assert Pending(asked, Status.CANCELLING, 1) in found
            assert [job.status for job in found].count(Status.QUEUED) == expected
        assert (await jobs.count_by_status(session))[Status.QUEUED] == 3


async def test_a_report_read_twice_counts_once(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.claim(database)
    reported: list[Event] = [
        worker.number(event) for event in (started(), row(1), Log(message="once"), checkpoint_taken(1), row(2))
    ]
    stored = {4: "checkpoint_1"}
    await worker.record(*reported[:3], stored=stored)
    for _ in range(2):
        await worker.record(*reported, stored=stored)
        await worker.record(*reported[1:4], stored=stored)
    assert await live_rows(database, job_id) == [("eval", 1, worker.attempt), ("eval", 2, worker.attempt)]
    async with database.read() as session:
        assert [event.seq for event in await events.after(session, 0, job_id=job_id) if event.seq] == [1, 2, 3, 4, 5]
        assert [checkpoint.id for checkpoint in await checkpoints.of_job(session, job_id)] == ["checkpoint_1"]


async def test_a_poll_is_recorded_whole_or_not_at_all(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.run(database)
    with pytest.raises(KeyError):
        await worker.record(worker.number(row(1)), worker.number(checkpoint_taken(1)), stored={})
    assert await live_rows(database, job_id) == []
    async with database.read() as session:
        (attempt,) = await jobs.attempts(session, job_id)
        assert attempt.last_seq == 1, "what was rolled back will be asked for again"


async def test_a_stale_attempt_is_fenced_and_changes_nothing(database: Database) -> None:
    job_id = await create(database)
    stale = await Worker.run(database)
    await stale.lose()
    current = await Worker.run(database)
    assert current.attempt != stale.attempt
    for act in (
        stale.report(row(1)),
        stale.lose(),
        stale.fail(FINAL),
        stale.finish(),
        Worker(database, job_id, "attempt_unknown").report(row(1)),
    ):
        with pytest.raises(Fenced):
            await act
    await current.report(row(1))
    assert await live_rows(database, job_id) == [("eval", 1, current.attempt)]
    assert await status(database, job_id) is Status.RUNNING


async def test_progress_leaves_no_row_and_no_event(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.run(database)
    async with database.read() as session:
        before = await events.last_id(session)
    await worker.report(Progress(epoch=1, step=3, images_per_s=100.0, train_loss=float("nan")))
    async with database.read() as session:
        assert await events.last_id(session) == before
        progress = (await jobs.get(session, job_id)).progress
    assert progress is not None
    assert (progress["step"], progress["images_per_s"], progress["train_loss"]) == (3, 100.0, None)


async def test_the_speed_of_an_evaluation_is_kept_in_the_progress_and_is_no_metric(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.run(database)
    row = Metrics(kind="eval", epoch=1, step=4, values={"test_error": 0.5}, eval_images_per_s=300.0)
    await worker.report(row, Progress(epoch=2, step=5, images_per_s=100.0))
    async with database.read() as session:
        job = await jobs.get(session, job_id)
    assert job.progress is not None
    assert (job.progress["step"], job.progress["evaluations"], job.progress["eval_images_per_s"]) == (5, 1, 300.0)
    assert set(job.summary) == {"test_error"}


async def test_a_retry_does_not_wait_for_a_clock_that_was_set_back(database: Database) -> None:
    job_id = await create(database)
    await (await Worker.run(database)).finish("failed", PASSING)
    later = datetime.now(UTC) + timedelta(hours=1)
    async with database.write() as session:
        await session.execute(update(Job).where(Job.id == job_id).values(not_before=later))
    async with database.read() as session:
        assert [job.job_id for job in await attempts.pending(session, limit=1, largest=1)] == [job_id]
    assert await claim(database) == job_id


async def test_jobs_start_in_the_order_of_their_submission_after_the_clock_was_set_back(database: Database) -> None:
    submitted = [await create(database)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: 0)
        submitted += [await create(database) for _ in range(2)]
    assert [await claim(database) for _ in submitted] == submitted


async def test_an_error_that_may_pass_is_tried_again_after_longer_and_longer(database: Database) -> None:
    job_id = await create(database, max_retries=2)
    for failures, delay_s in ((1, attempts.RETRY_DELAY_S), (2, 2 * attempts.RETRY_DELAY_S)):
        worker = await Worker.run(database)
        before = datetime.now(UTC)
        await worker.finish("failed", PASSING)
        async with database.read() as session:
            job = await jobs.get(session, job_id)
            assert (job.status, job.failures, job.error) == (Status.QUEUED, failures, None)
            assert job.not_before is not None
            assert before <= job.not_before - timedelta(seconds=delay_s) <= datetime.now(UTC)
            assert await attempts.pending(session, limit=1, largest=1) == []
            last = (await events.of_type(session, job_id, "status"))[-1]
            assert last.data["reason"] == f"the disk was away (retry {failures} of 2 in {delay_s:g} s)"
        assert await claim(database) is None, "not before its delay"
        await let_the_delay_pass(database, job_id)
    await (await Worker.run(database)).finish("failed", PASSING)
    async with database.read() as session:
        job = await jobs.get(session, job_id)
        assert (job.status, job.failures) == (Status.FAILED, 2)
        assert job.error == {"code": "exception", "message": "the disk was away", "step": None}
        assert [attempt.outcome for attempt in await jobs.attempts(session, job_id)] == ["failed"] * 3


async def test_an_error_that_cannot_pass_is_not_tried_again(database: Database) -> None:
    job_id = await create(database, max_retries=20)
    await (await Worker.run(database)).finish("failed", FINAL)
    async with database.read() as session:
        job = await jobs.get(session, job_id)
        assert job.status is Status.FAILED
        assert job.error == {"code": "diverged", "message": "the loss is not finite at step 3", "step": 3}


async def test_a_resume_cancels_the_delay_of_a_retry(database: Database) -> None:
    job_id = await create(database)
    await (await Worker.run(database)).finish("failed", PASSING)
    async with database.write() as session:
        await jobs.pause(session, job_id)
        await jobs.resume(session, job_id)
    assert await claim(database) == job_id


async def test_losing_workers_costs_no_retry_but_not_forever(database: Database) -> None:
    job_id = await create(database, max_retries=0)
    for _ in range(2):
        await (await Worker.run(database)).lose(max_lost=3)
    worker = await Worker.run(database)
    await worker.checkpoint(3)
    await worker.lose(max_lost=3)
    for losses in (2, 3):
        worker = await Worker.run(database)
        await worker.lose(max_lost=3)
        async with database.read() as session:
            assert (await jobs.get(session, job_id)).losses == losses, "a checkpoint starts the count anew"
    async with database.read() as session:
        job = await jobs.get(session, job_id)
        assert job.status is Status.FAILED
        assert job.failures == 0
        assert job.error is not None
        assert job.error["message"] == (
            "lost its worker 3 times without reaching a new checkpoint; the last time: the node went away"
        )
    assert (await history(database, job_id))[-2:] == [Status.LOST, Status.FAILED]


async def test_times_are_utc_whatever_zone_they_were_given_in(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.run(database)
    tokyo = datetime(2026, 7, 1, 9, 30, 15, 123456, timezone(timedelta(hours=9)))
    await worker.report(row(1).model_copy(update={"time": tokyo}))
    async with database.read() as session:
        event = (await events.of_type(session, job_id, "metrics"))[0]
        job = await jobs.get(session, job_id)
    assert event.time.isoformat() == "2026-07-01T00:30:15.123456+00:00"
    assert job.created_at.tzinfo is UTC
    assert timedelta(0) <= datetime.now(UTC) - job.created_at < timedelta(minutes=1)


async def test_text_that_a_database_cannot_hold_is_held_otherwise(database: Database) -> None:
    job_id = await create(database, name="a\0b")
    worker = await Worker.run(database)
    await worker.log("zero \0")
    await worker.finish("failed", Failure(code="exception", message="\0", may_pass=False))
    async with database.read() as session:
        job = await jobs.get(session, job_id)
        assert job.name == "a\N{REPLACEMENT CHARACTER}b"
        (line,) = await events.logs(session, job_id, search="zero")
        assert line.data["message"] == "zero \N{REPLACEMENT CHARACTER}"
        assert job.error is not None
        assert job.error["message"] == "\N{REPLACEMENT CHARACTER}"


def test_a_failed_attempt_and_no_other_says_why() -> None:
    for outcome, failure in (("failed", None), ("succeeded", FINAL), ("paused", PASSING)):
        with pytest.raises(ValueError, match=f"outcome is {outcome}, failure is"):
            Finished.model_validate({"outcome": outcome, "failure": failure and failure.model_dump()})
