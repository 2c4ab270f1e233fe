"""The limits on the jobs of a name, on both databases."""

import pytest

from service.errors import QuotaExceeded
from service.experiments.request import ExperimentRequest, expand
from service.jobs import Status
from service.store import Database, attempts, experiments, jobs, submitters
from service.store.attempts import FreeWorker
from service.store.submitters import Submitter
from tests.unit.service.store.acting import Worker, request, status

pytestmark = pytest.mark.anyio

ADA, BOB = Submitter("ada", most_queued=3), Submitter("bob")
FREE = [FreeWorker("worker-1", "node")]


async def submit(database: Database, by: Submitter) -> str:
    async with database.write() as session:
        return (await jobs.create(session, request(), by=by)).id


async def submit_all(database: Database, by: Submitter, count: int) -> None:
    """Submit several jobs at once."""
    async with database.write() as session:
        cells = [(str(seed), request(seed=seed)) for seed in range(count)]
        await jobs.create_all(session, cells, "experiment_1", by=by)


async def claim(database: Database, *full: str) -> str | None:
    async with database.write() as session:
        claimed = await attempts.claim(session, FREE, full=full)
        return claimed[0].id if isinstance(claimed, tuple) else None


async def test_what_exceeds_the_limit_is_refused_whole(database: Database) -> None:
    for _ in range(2):
        await submit(database, ADA)
    await submit(database, BOB)
    sentence = r"adds 2 jobs\. ada has 2 queued or paused jobs, and the limit of this name is 3 .*at most 1 more now"
    with pytest.raises(QuotaExceeded, match=sentence):
        await submit_all(database, ADA, 2)
    async with database.read() as session:
        assert (await jobs.count_by_status(session))[Status.QUEUED] == 3
    await submit(database, ADA)
    with pytest.raises(QuotaExceeded, match=r"adds 1 job\..*no more now"):
        await submit(database, ADA)
    await submit(database, BOB)


async def test_more_than_the_limit_at_once_is_never_accepted(database: Database) -> None:
    with pytest.raises(QuotaExceeded, match="submit at most 3 at once; ada can submit at most 3 more now"):
        await submit_all(database, ADA, 4)


async def test_a_paused_job_counts_and_a_started_one_does_not(database: Database) -> None:
    for _ in range(3):
        await submit(database, ADA)
    await Worker.claim(database)
    last = await submit(database, ADA)
    async with database.write() as session:
        await jobs.pause(session, last)
    with pytest.raises(QuotaExceeded):
        await submit(database, ADA)
    async with database.write() as session:
        await jobs.resume(session, last)
    assert await status(database, last) is Status.QUEUED


async def test_a_retry_is_refused_beyond_the_limit_and_its_repeat_is_not(database: Database) -> None:
    first = await submit(database, ADA)
    async with database.write() as session:
        await jobs.cancel(session, first)
        retry = await jobs.retry(session, first, ADA)
    for _ in range(2):
        await submit(database, ADA)
    async with database.write() as session:
        assert (await jobs.retry(session, first, ADA)).id == retry.id
        await jobs.cancel(session, retry.id)
    await submit(database, ADA)
    with pytest.raises(QuotaExceeded):
        async with database.write() as session:
            await jobs.retry(session, retry.id, ADA)


async def test_what_a_dispatcher_adds_to_an_experiment_is_not_refused(database: Database) -> None:
    async with database.write() as session:
        grid = {"normalization": [{"type": "batch"}], "batch_size": [2], "seed": [0]}
        resolved = ExperimentRequest.model_validate({"grid": grid}).resolved()
        longer = resolved.extended({"seed": [1, 2, 3, 4]})
        by = Submitter("ada", most_queued=1)
        experiment = await experiments.create(session, resolved, expand(resolved), by=by)
        with pytest.raises(QuotaExceeded):
            await experiments.extend(session, experiment, longer, expand(longer), by=by)
        added = await experiments.extend(session, experiment, longer, expand(longer))
        assert {job.submitted_by for job in await jobs.of_ids(session, added)} == {"ada"}
    assert len(added) == 4


async def test_the_jobs_of_a_full_name_are_overtaken(database: Database) -> None:
    first, second = await submit(database, ADA), await submit(database, ADA)
    bobs, nobodys = await submit(database, BOB), await submit(database, Submitter())
    assert await claim(database) == first
    async with database.read() as session:
        assert await submitters.running(session) == {"ada": 1}
        waiting = await attempts.pending(session, 10, largest=1, full=["ada"])
        assert {job.job_id for job in waiting} == {bobs, nobodys}
        assert len(await attempts.pending(session, 10, largest=1)) == 3
    assert await claim(database, "ada") == bobs
    assert await claim(database, "ada", "bob") == nobodys
    assert await claim(database, "ada", "bob") is None
    assert await claim(database, "bob") == second
