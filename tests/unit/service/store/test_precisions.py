"""The precision of jobs that leave it open: one for an experiment, and the same for every attempt and retry."""

from typing import Any

import pytest
from sqlalchemy import select

from service.experiments.request import ExperimentRequest, expand
from service.jobs import Status
from service.store import Database, attempts, experiments, jobs, precisions
from service.store.attempts import Fenced, FreeWorker
from service.store.tables import Experiment, Job
from tests.unit.service.store.acting import FINAL, create

pytestmark = pytest.mark.anyio

GRID: dict[str, Any] = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [2, 32]}


async def claim(database: Database, auto: Any) -> Job:
    """Claim the next job, on workers on which `auto` has this meaning."""
    async with database.write() as session:
        claimed = await attempts.claim(session, [FreeWorker("worker-1", "node-1")], auto=auto)
    assert isinstance(claimed, tuple)
    return claimed[0]


async def experiment(database: Database, grid: dict[str, Any] = GRID) -> str:
    asked = ExperimentRequest.model_validate({"grid": grid}).resolved()
    async with database.write() as session:
        return (await experiments.create(session, asked, expand(asked))).id


async def of_experiment(database: Database, id_: str) -> str | None:
    async with database.read() as session:
        found: str | None = await session.scalar(select(Experiment.precision).where(Experiment.id == id_))
        return found


async def resolve(database: Database, job: Job, precision: Any) -> str:
    async with database.write() as session:
        assert job.attempt_id is not None
        return await attempts.resolve_precision(session, job.attempt_id, precision)


@pytest.mark.parametrize("named", ["float32", "bfloat16"])
async def test_a_precision_that_is_named_is_not_resolved(database: Database, named: str) -> None:
    id_ = await experiment(database, {**GRID, "precision": [named]})
    assert (await claim(database, "bfloat16" if named == "float32" else "float32")).precision == named
    assert await of_experiment(database, id_) is None


async def test_the_first_job_resolves_it_for_its_experiment(database: Database) -> None:
    id_ = await experiment(database)
    assert (await claim(database, "float32")).precision == "float32"
    assert await of_experiment(database, id_) == "float32"
    assert (await claim(database, "bfloat16")).precision == "float32", "also if the workers are others by now"
    assert (await claim(database, None)).precision == "float32"


async def test_jobs_without_an_experiment_are_resolved_each_for_itself(database: Database) -> None:
    for auto in ("float32", "bfloat16"):
        await create(database)
        assert (await claim(database, auto)).precision == auto


async def test_what_a_measurement_finds_is_stored_once(database: Database) -> None:
    id_ = await experiment(database)
    first, second = await claim(database, None), await claim(database, None)
    assert (first.precision, second.precision) == (None, None)
    assert await resolve(database, second, "bfloat16") == "bfloat16"
    assert await resolve(database, first, "float32") == "bfloat16", "both measured at the same time"
    assert await of_experiment(database, id_) == "bfloat16"
    assert await resolve(database, second, "float32") == "bfloat16"


async def test_an_attempt_that_was_given_up_resolves_nothing(database: Database) -> None:
    await create(database)
    job = await claim(database, None)
    async with database.write() as session:
        await attempts.lose(session, str(job.attempt_id), "the node went away", 5)
    with pytest.raises(Fenced):
        await resolve(database, job, "bfloat16")


async def test_a_later_attempt_and_a_retry_keep_it(database: Database) -> None:
    await create(database)
    job = await claim(database, "bfloat16")
    async with database.write() as session:
        await attempts.lose(session, str(job.attempt_id), "the node went away", 5)
    job = await claim(database, "float32")
    assert job.precision == "bfloat16"
    async with database.write() as session:
        await attempts.fail(session, str(job.attempt_id), FINAL)
    async with database.write() as session:
        again = await jobs.retry(session, job.id)
        assert (again.precision, again.status) == ("bfloat16", Status.QUEUED)


async def test_seeds_that_are_added_get_that_of_the_experiment(database: Database) -> None:
    id_ = await experiment(database, {"normalization": [{"type": "group"}], "batch_size": [2], "seed": [0]})
    await claim(database, "bfloat16")
    wider = ExperimentRequest.model_validate(
        {"grid": {"normalization": [{"type": "group"}], "batch_size": [2], "seed": [0, 1]}}
    ).resolved()
    async with database.write() as session:
        found = await experiments.get(session, id_, lock=True)
        assert len(await experiments.extend(session, found, wider, expand(wider))) == 1
    assert (await claim(database, "float32")).precision == "bfloat16"


async def test_the_workloads_are_those_of_the_jobs_that_are_resolved_together(database: Database) -> None:
    id_ = await experiment(database, {**GRID, "precision": ["auto", "float32"]})
    await create(database)
    async with database.read() as session:
        query = select(Job).where(Job.experiment_id == id_, Job.precision.is_(None)).limit(1)
        of_it = (await session.scalars(query)).one()
        alone = (await session.scalars(select(Job).where(Job.experiment_id.is_(None)))).one()
        assert await precisions.workloads(session, of_it) == {("resnet20", 2): 2, ("resnet20", 32): 2}
        assert await precisions.workloads(session, alone) == {("resnet20", 2): 1}
