"""A job is dispatched to a worker, and everything that it reports is stored."""

from pathlib import Path
from typing import Any

import pytest

from service.experiments.request import ExperimentRequest, expand
from service.experiments.search import first_jobs, search_of
from service.jobs import TERMINAL, Status
from service.store import evaluations, experiments, extensions, jobs
from service.store.listing import JobFilter
from service.store.results import runs
from tests.integration.dispatcher.conftest import SMALL, STUDY
from worker.evaluation_spec import EvaluationSpec

pytestmark = [pytest.mark.anyio, pytest.mark.ray]

LONG = {"epochs": 200}


async def test_a_job_trains_and_everything_it_reports_is_stored(stack: Any) -> None:
    job_id = await stack.submit()
    job = await stack.wait(job_id)

    assert job.status is Status.SUCCEEDED
    assert await stack.history(job_id) == ["queued", "starting", "running", "succeeded"]
    assert [row.epoch for row in await stack.rows(job_id, kind="eval")] == [1, 2]
    assert [row.step for row in await stack.rows(job_id, kind="train")] == list(range(1, 17))
    evaluated = {row.step: row.values["test_error"] for row in await stack.rows(job_id, kind="eval")}
    assert job.summary["test_error"]["last"] == evaluated[16]
    assert job.summary["test_error"]["best"] == min(evaluated.values())

    (attempt,) = await stack.attempts(job_id)
    assert (attempt.outcome, attempt.device, attempt.number) == ("succeeded", "cpu", 1)
    assert attempt.versions["torch"]

    latest = (await stack.checkpoints(job_id))[0]
    assert (latest.step, latest.metrics["test_error"]) == (16, evaluated[16])
    folder = Path(stack.home, "artifacts", job_id, latest.id)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {
        name: file["size"] for name, file in latest.files.items()
    }


async def test_a_worker_trains_one_job_after_another_and_the_same_spec_ends_in_the_same_weights(stack: Any) -> None:
    first, second, other_seed = [await stack.submit(epochs=1, seed=seed) for seed in (3, 3, 4)]
    for job_id in (first, second, other_seed):
        await stack.wait(job_id)

    workers = {
        attempt.workers[0]["worker"]
        for job_id in (first, second, other_seed)
        for attempt in await stack.attempts(job_id)
    }
    assert len(workers) < 3
    assert await stack.weights(first) == await stack.weights(second) != await stack.weights(other_seed)


async def test_as_many_jobs_run_at_once_as_there_are_slots_and_the_most_urgent_of_the_others_is_next(
    stack: Any,
) -> None:
    running = [await stack.submit(**LONG) for _ in range(2)]
    for job_id in running:
        await stack.wait(job_id, Status.RUNNING)
    patient = await stack.submit(epochs=1)
    urgent = await stack.submit(epochs=1, priority=5)
    await stack.cancel(running[0])

    assert (await stack.wait(urgent)).started_at < (await stack.wait(patient)).started_at
    assert (await stack.job(running[1])).status is Status.RUNNING
    await stack.cancel(running[1])
    await stack.wait(running[1])


async def test_a_cancelled_job_is_cancelled_once_its_worker_is_free(stack: Any) -> None:
    job_id = await stack.submit(**LONG)
    await stack.wait_for_step(job_id, 3)
    async with stack.database.write() as session:
        assert (await jobs.cancel(session, job_id)).status is Status.CANCELLING

    assert (await stack.wait(job_id)).status is Status.CANCELLED
    (attempt,) = await stack.attempts(job_id)
    next_job = await stack.submit(epochs=1)
    assert (await stack.wait(next_job)).status is Status.SUCCEEDED
    assert (await stack.attempts(next_job))[0].workers == attempt.workers


async def test_a_paused_job_goes_on_where_it_was_and_ends_as_if_it_had_not_been_paused(stack: Any) -> None:
    job_id = await stack.submit(**STUDY)
    await stack.wait_for_step(job_id, 11)
    paused = await stack.pause(job_id)
    (checkpoint, *_) = await stack.checkpoints(job_id)
    assert checkpoint.step >= 11
    await stack.resume(job_id)
    await stack.wait(job_id)

    assert paused.attempts == 1
    assert [attempt.resumed_from_step for attempt in await stack.attempts(job_id)] == [0, checkpoint.step]
    await stack.assert_as_if_undisturbed(job_id, **STUDY)


async def test_an_extended_job_ends_as_one_that_was_longer_from_the_start(stack: Any) -> None:
    constant = {"schedule": {"type": "constant"}, "ema": {"decay": 0.9}}
    short = await stack.submit(**constant, epochs=2)
    await stack.wait(short)
    async with stack.database.write() as session:
        extended = (await extensions.extend(session, short, 4)).id
    await stack.wait(extended)

    assert [attempt.resumed_from_step for attempt in await stack.attempts(extended)] == [16]
    await stack.assert_as_if_undisturbed(extended, **constant, epochs=4)


async def test_a_job_begins_with_the_weights_of_another(stack: Any) -> None:
    first = await stack.submit(epochs=1)
    await stack.wait(first)
    (taken,) = await stack.checkpoints(first)
    fits = await stack.submit(epochs=1, init_from=taken.id, normalization={"type": "layer"})
    other = await stack.submit(epochs=1, init_from=taken.id, normalization={"type": "batch"})
    assert (await stack.wait(fits)).status is Status.SUCCEEDED
    failed = await stack.wait(other)
    assert (failed.status, failed.error["code"]) == (Status.FAILED, "checkpoint")
    assert "it lacks stem_norm.running_mean, " in failed.error["message"]


async def test_a_checkpoint_is_evaluated_by_an_idle_worker(stack: Any) -> None:
    job_id = await stack.submit(epochs=1, normalization={"type": "batch"})
    await stack.wait(job_id)
    (taken,) = await stack.checkpoints(job_id)
    async with stack.database.write() as session:
        asked = [EvaluationSpec(), EvaluationSpec(batch_statistics=16), EvaluationSpec(split="train")]
        ids = [(await evaluations.request(session, taken.id, one)).id for one in asked]

    async def ended() -> list[Any] | None:
        async with stack.database.read() as session:
            found = [await evaluations.get(session, id_) for id_ in ids]
        return found if all(one.status in TERMINAL for one in found) else None

    plain, by_batch, train = [one.result for one in await stack.until(ended, "the evaluations to end")]
    assert [plain["loss"], plain["error"]] == [taken.metrics["test_loss"], taken.metrics["test_error"]]
    assert by_batch["loss"] != plain["loss"]
    assert (train["split"], train["images"]) == ("train", 128)


async def test_checkpoints_are_kept_as_the_spec_says_and_the_best_always(stack: Any) -> None:
    job_id = await stack.submit(epochs=6, checkpoint={"keep_last": 2})
    await stack.wait(job_id)

    errors = {row.step: row.values["test_error"] for row in await stack.rows(job_id, kind="eval")}
    best = min(errors, key=lambda step: (errors[step], step))
    kept = {checkpoint.step: checkpoint.id for checkpoint in await stack.checkpoints(job_id)}
    assert set(kept) == {40, 48, best}
    assert {path.name for path in Path(stack.home, "artifacts", job_id).iterdir()} == set(kept.values())


async def test_a_diverged_training_fails_at_its_step_and_keeps_its_last_good_checkpoint(stack: Any) -> None:
    job_id = await stack.submit(
        normalization={"type": "none"},
        epochs=30,
        optimizer={"type": "sgd", "learning_rate": 1e4, "momentum": 0.0},
        schedule={"type": "constant", "warmup_epochs": 4},
        checkpoint={"every_s": 0.001},
    )
    job = await stack.wait(job_id)

    assert job.status is Status.FAILED
    assert job.error["code"] == "diverged"
    assert f"step {job.error['step']}" in job.error["message"]
    assert job.attempts == 1
    assert all(checkpoint.step < job.error["step"] for checkpoint in await stack.checkpoints(job_id))
    assert all(None not in row.values.values() for row in await stack.rows(job_id))


async def test_a_missing_dataset_fails_the_jobs_that_need_it_with_a_sentence_and_no_other(stack: Any) -> None:
    Path(stack.home, "data", "cifar-10-batches-py").mkdir(parents=True)
    Path(stack.home, "data", "cifar-10-batches-py", "data_batch_1").write_bytes(b"not CIFAR-10")
    bystander = await stack.submit(epochs=3)
    job_id = await stack.submit(dataset={"name": "cifar10", "train_limit": 256})
    job = await stack.wait(job_id)

    assert job.status is Status.FAILED
    assert job.error["code"] == "dataset"
    assert "data_batch_1" in job.error["message"]
    assert (await stack.wait(bystander)).status is Status.SUCCEEDED


async def test_sequential_seeds_are_spent_whichever_dispatcher_is_there(stack: Any) -> None:
    request = ExperimentRequest.model_validate(
        {
            "base": {"epochs": 1, "dataset": SMALL},
            "grid": {"normalization": [{"type": "layer"}, {"type": "group", "num_groups": 1}], "batch_size": [32]},
            "seeds": {"min": 2, "max": 3},
        }
    ).resolved()
    async with stack.database.write() as session:
        experiment_id = (await experiments.create(session, request, expand(request))).id
        first = await session.scalar(JobFilter(experiment=experiment_id).job_ids().limit(1))
    await stack.wait(first)
    stack.dispatchers[0].kill()
    stack.start_dispatcher()

    async def decided() -> bool | None:
        async with stack.database.read() as session:
            return None if (await experiments.get(session, experiment_id)).deciding else True

    await stack.until(decided, "all seeds to be decided")
    async with stack.database.read() as session:
        found = await runs(session, JobFilter(experiment=experiment_id))
    # One group is layer normalization: the two are equal, so no seed resolves them and both get all seeds.
    assert sorted((run.spec["normalization"]["type"], run.seed) for run in found) == [
        (kind, seed) for kind in ("group", "layer") for seed in range(3)
    ]
    assert {run.status for run in found} == {Status.SUCCEEDED}
    assert len({(run.device, run.precision) for run in found}) == 1


async def test_what_a_search_finds_is_trained_whichever_dispatcher_is_there(stack: Any) -> None:
    request = ExperimentRequest.model_validate(
        {
            "base": {"epochs": 4, "dataset": SMALL, "schedule": {"type": "constant"}},
            "grid": {"normalization": [{"type": "group"}], "batch_size": [16], "seed": [3]},
            "tune": {
                "over": {"optimizer.learning_rate": [1e-6, 0.1, 1e6]},
                "holdout": 32,
                "seeds": 1,
                "epochs": 0.5,
                "compare": False,
            },
        }
    ).resolved()
    async with stack.database.write() as session:
        experiment_id = (await experiments.create(session, request, first_jobs(request))).id
        first = await session.scalar(JobFilter(experiment=experiment_id).job_ids().limit(1))
    await stack.wait(first)
    stack.dispatchers[0].kill()
    stack.start_dispatcher()

    async def tuned() -> str | None:
        async with stack.database.read() as session:
            of_it = JobFilter(experiment=experiment_id, labels={"tune": "tuned"})
            id_: str | None = await session.scalar(of_it.job_ids())
            return id_

    job = await stack.wait(await stack.until(tuned, "the tuned job"))
    assert job.status is Status.SUCCEEDED
    assert (job.seed, job.spec["dataset"]["holdout"], job.spec["epochs"]) == (3, 0, 4)
    async with stack.database.read() as session:
        found = await runs(session, JobFilter(experiment=experiment_id))
        assert not (await experiments.get(session, experiment_id)).deciding
    (choice,) = search_of(request).choices(found)
    errors = {score.candidate.values["optimizer.learning_rate"]: score.error for score in choice.scores}
    assert errors[1e6] is None, "it diverged"
    assert choice.values == {"optimizer.learning_rate": job.spec["optimizer"]["learning_rate"]}
    assert errors[job.spec["optimizer"]["learning_rate"]] == min(e for e in errors.values() if e is not None)
    assert {"holdout_error", "test_error"} & job.summary.keys() == {"test_error"}
    searched = [run for run in found if run.id != job.id]
    assert len(searched) == 3
    assert all("test_error" not in run.summary for run in searched)
