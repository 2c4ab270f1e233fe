"""Idle workers compute evaluations; a lost worker, a damaged checkpoint and a failure are told."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from service.dispatcher import evaluations as module
from service.dispatcher.cluster import WorkerGone
from service.dispatcher.evaluations import Evaluations
from service.errors import CorruptFile, StorageUnavailable
from service.jobs import Status
from service.store import checkpoints, evaluations
from service.store.tables import Evaluation
from tests.unit.service.dispatcher.conftest import Bench, Scripted
from tests.unit.service.dispatcher.test_attempt import FILES, checkpoint, ended, sometimes
from tests.unit.service.store.acting import started
from tests.unit.service.store.test_evaluations import RESULT
from worker.evaluation_spec import EvaluationSpec
from worker.events import Failure

pytestmark = pytest.mark.anyio


class Evaluator(Scripted):
    """A worker that gives scripted answers to evaluations."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(None)
        self.answers = list(answers)
        self.evaluated: list[tuple[Mapping[str, bytes], Any, dict[str, Any]]] = []

    async def evaluate(self, checkpoint: Mapping[str, bytes], dataset: Any, asked: dict[str, Any]) -> Any:
        self.evaluated.append((checkpoint, dataset, asked))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def requested(bench: Bench) -> str:
    """Return the id of a requested evaluation."""
    run = await bench.claim(Scripted(ended(), reports=[started(), checkpoint()], files=FILES))
    await run.run()
    async with bench.database.write() as session:
        taken = await checkpoints.pick(session, run.job_id, "latest")
        return (await evaluations.request(session, taken.id, EvaluationSpec())).id


async def compute(bench: Bench, worker: Evaluator) -> Evaluations:
    """Let a worker compute the next evaluation."""
    worker.name = "evaluator"
    slot = bench.pool.adopt(worker, worker.state(None), busy=False)
    of_bench = Evaluations(bench.artifacts, bench.leadership, bench.images, bench.pool)
    assert await of_bench.start([slot]) == 1
    assert (slot.state, slot.attempt_id is not None) == ("busy", True)
    await asyncio.gather(*of_bench._running)
    return of_bench


async def queued(bench: Bench) -> int:
    async with bench.database.read() as session:
        return await evaluations.count_queued(session)


async def read(bench: Bench, evaluation_id: str) -> Evaluation:
    async with bench.database.read() as session:
        return await evaluations.get(session, evaluation_id)


async def test_an_idle_worker_computes_it_and_is_idle_again(bench: Bench) -> None:
    id_ = await requested(bench)
    of_bench = await compute(bench, worker := Evaluator(RESULT))

    asked = {"split": "test", "precision": "float32", "batch_statistics": None, "precise_statistics": None}
    assert worker.evaluated == [(FILES, "the images of cifar10", asked)]
    found = await read(bench, id_)
    assert (found.status, found.result) == (Status.SUCCEEDED, RESULT.model_dump(mode="json"))
    assert "evaluator" in bench.idle()
    assert await queued(bench) == 0
    assert await of_bench.start([]) == 0


async def test_a_failure_is_the_reason_and_the_worker_remains(bench: Bench) -> None:
    id_ = await requested(bench)
    await compute(bench, Evaluator(Failure(code="out_of_memory", message="out of memory at batch 2", may_pass=False)))
    found = await read(bench, id_)
    assert (found.status, found.error) == (Status.FAILED, "out of memory at batch 2")
    assert "evaluator" in bench.idle()


async def test_a_lost_worker_is_discarded_and_the_evaluation_queued_again(bench: Bench) -> None:
    id_ = await requested(bench)
    await compute(bench, worker := Evaluator(WorkerGone("ended by SIGKILL")))
    assert (await read(bench, id_)).status is Status.QUEUED
    assert worker.killed
    assert await queued(bench) == 1


async def test_a_damaged_checkpoint_is_the_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = await requested(bench)

    def damaged(*_: Any) -> Any:
        raise CorruptFile("state.pt is damaged")

    monkeypatch.setattr(bench.artifacts, "read", damaged)
    await compute(bench, worker := Evaluator())
    assert ((await read(bench, id_)).error, worker.evaluated) == ("state.pt is damaged", [])


async def test_it_waits_for_the_artifact_store(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = await requested(bench)
    monkeypatch.setattr(module, "RETRY_S", 0)
    read_files = sometimes(bench.artifacts.read, StorageUnavailable("away"), failures=2)
    monkeypatch.setattr(bench.artifacts, "read", read_files)
    await compute(bench, Evaluator(RESULT))
    assert (await read(bench, id_)).status is Status.SUCCEEDED


async def test_a_dispatcher_queues_what_another_one_began(bench: Bench) -> None:
    id_ = await requested(bench)
    async with bench.database.write() as session:
        await evaluations.claim(session)
    of_bench = Evaluations(bench.artifacts, bench.leadership, bench.images, bench.pool)
    assert await queued(bench) == 0
    await of_bench.requeue()
    assert await queued(bench) == 1
    assert (await read(bench, id_)).status is Status.QUEUED
