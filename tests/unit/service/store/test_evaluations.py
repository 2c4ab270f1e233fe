"""Evaluations of checkpoints are requested once, computed by workers, and kept with their job."""

from typing import Any

import pytest

from service.errors import InvalidFields, NotFound
from service.jobs import Status
from service.store import Channel, Database, checkpoints, evaluations, jobs
from service.store.notifications import notified_by
from service.store.tables import Evaluation
from tests.unit.service.store.acting import Worker, create
from worker.evaluation_spec import EvaluationSpec
from worker.events import Evaluated

pytestmark = pytest.mark.anyio

RESULT = Evaluated(
    split="test",
    precision="float32",
    batch_statistics=None,
    precise_statistics=None,
    device="cpu",
    images=3,
    loss=0.5,
    error=1 / 3,
    confusion=[[2, 1], [0, 0]],
    mistakes=[],
)


async def trained(database: Database, **given: Any) -> tuple[str, str]:
    """Return the ids of a succeeded job and of its checkpoint."""
    await create(database, **given)
    worker = await Worker.run(database)
    taken = await worker.checkpoint(9, 3, test_error=0.5)
    await worker.finish()
    return worker.job, taken


async def request(database: Database, checkpoint_id: str, **asked: Any) -> Evaluation:
    async with database.write() as session:
        return await evaluations.request(session, checkpoint_id, EvaluationSpec(**asked))


async def read(database: Database, evaluation_id: str) -> Evaluation:
    async with database.read() as session:
        return await evaluations.get(session, evaluation_id)


async def do(database: Database, act: Any, *arguments: Any) -> Any:
    async with database.write() as session:
        return await act(session, *arguments)


async def test_what_is_not_chosen_is_as_in_the_training_and_a_repeat_is_the_same(database: Database) -> None:
    job_id, taken = await trained(database)
    first = await request(database, taken)
    assert (first.job_id, first.checkpoint_id, first.epoch, first.step) == (job_id, taken, 3, 9)
    assert (first.status, first.request) == (
        Status.QUEUED,
        {"split": "test", "precision": "float32", "batch_statistics": None, "precise_statistics": None},
    )
    assert (await request(database, taken, split="test", precision="float32")).id == first.id
    other = await request(database, taken, batch_statistics=4)
    async with database.read() as session:
        assert [one.id for one in await evaluations.of_job(session, job_id)] == [other.id, first.id]
        assert await evaluations.count_queued(session) == 2


async def test_a_request_wakes_the_dispatcher(database: Database) -> None:
    _, taken = await trained(database)
    async with database.write() as session:
        await evaluations.request(session, taken, EvaluationSpec())
        assert Channel.QUEUE in notified_by(session)


async def test_a_holdout_is_the_default_of_a_job_that_has_one_and_refused_otherwise(database: Database) -> None:
    _, held = await trained(database, dataset={"holdout": 100})
    assert (await request(database, held)).request["split"] == "holdout"
    job_id, taken = await trained(database)
    with pytest.raises(InvalidFields, match=f"split is holdout, but job {job_id} holds out no images"):
        await request(database, taken, split="holdout")
    with pytest.raises(NotFound):
        await request(database, "checkpoint_x")


async def test_they_are_begun_in_order_and_keep_their_results(database: Database) -> None:
    job_id, taken = await trained(database)
    first, second = await request(database, taken), await request(database, taken, split="train")
    evaluation, job, checkpoint = await do(database, evaluations.claim)
    assert (evaluation.id, evaluation.status, job.id, checkpoint.id) == (first.id, Status.RUNNING, job_id, taken)
    assert (await do(database, evaluations.claim))[0].id == second.id
    assert await do(database, evaluations.claim) is None

    await do(database, evaluations.succeed, first.id, RESULT)
    ended = await read(database, first.id)
    assert (ended.status, Evaluated.model_validate(ended.result)) == (Status.SUCCEEDED, RESULT)
    assert ended.finished_at is not None
    assert (await request(database, taken)).id == first.id
    await do(database, evaluations.fail, second.id, "out of memory")
    assert ((await read(database, second.id)).status, (await read(database, second.id)).error) == (
        Status.FAILED,
        "out of memory",
    )
    assert (await request(database, taken, split="train")).id != second.id, "one that failed is tried again"


async def test_one_whose_worker_is_gone_is_queued_again_but_not_forever(database: Database) -> None:
    _, taken = await trained(database)
    id_ = (await request(database, taken)).id
    for losses in range(1, evaluations.MOST_LOSSES + 1):
        assert (await do(database, evaluations.claim))[0].losses == losses - 1
        await do(database, evaluations.lose, id_, "ended by SIGKILL")
    failed = await read(database, id_)
    assert (failed.status, failed.error) == (
        Status.FAILED,
        "it lost its worker 3 times; the last time: ended by SIGKILL",
    )


async def test_what_an_earlier_dispatcher_began_is_queued_again(database: Database) -> None:
    _, taken = await trained(database)
    id_ = (await request(database, taken)).id
    await do(database, evaluations.claim)
    await do(database, evaluations.requeue)
    assert (await read(database, id_)).status is Status.QUEUED


async def test_its_checkpoint_is_needed_until_it_has_ended(database: Database) -> None:
    job_id, taken = await trained(database)
    id_ = (await request(database, taken)).id
    async with database.read() as session:
        assert await checkpoints.needed(session, job_id) == {taken}
    await do(database, evaluations.claim)
    await do(database, evaluations.succeed, id_, RESULT)
    async with database.write() as session:
        assert await checkpoints.needed(session, job_id) == set()
        await checkpoints.remove(session, [taken])
    assert (await read(database, id_)).status is Status.SUCCEEDED, "its result stays"


async def test_it_is_deleted_with_its_job_also_while_it_is_computed(database: Database) -> None:
    job_id, taken = await trained(database)
    id_ = (await request(database, taken)).id
    await do(database, evaluations.claim)
    await do(database, jobs.delete, job_id)
    with pytest.raises(NotFound):
        await read(database, id_)
    for act, argument in ((evaluations.succeed, RESULT), (evaluations.fail, "x"), (evaluations.lose, "x")):
        await do(database, act, id_, argument)
