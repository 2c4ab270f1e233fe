"""An imported experiment is equal to the exported one."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from service.errors import Conflict
from service.experiments.bundle import Bundle, BundleError, BundleWriter
from service.experiments.bundle.lines import CheckpointLine
from service.experiments.request import ExperimentRequest, expand
from service.store import Database, bundles, checkpoints, events, experiments, jobs, metrics
from service.store.tables import Attempt, Experiment, Job, Metric
from tests.unit.service.store.acting import FINAL, Worker
from worker.events import Metrics, Progress, Usage

pytestmark = pytest.mark.anyio


@pytest.fixture
async def experiment(database: Database) -> str:
    """An experiment of two jobs: one succeeded after its worker was lost, one failed."""
    base = {"normalization": {"type": "batch"}, "batch_size": 2, "labels": {"a": "b"}}
    request = ExperimentRequest.model_validate({"grid": {"seed": [0, 1]}, "base": base}).resolved()
    async with database.write() as session:
        id_ = (await experiments.create(session, request, expand(request))).id
    first = await Worker.run(database)
    await evaluate(first, 1, 2)
    await first.checkpoint(3, test_error=0.7)
    await first.lose()
    second = await Worker.run(database, resumed_from_step=3)
    await second.log("onwards")
    await evaluate(second, 2, 3)
    await second.report(Progress(epoch=3, step=9, usage=Usage(cpu_s=2.5, peak_memory_bytes=2**33)))
    await second.finish()
    third = await Worker.run(database)
    await third.finish("failed", FINAL)
    return id_


async def evaluate(worker: Worker, *epochs: int) -> None:
    for epoch in epochs:
        values = {"test_error": 1 - epoch / 10, "test_loss": 1 / epoch}
        await worker.report(Metrics(kind="eval", epoch=epoch, step=3 * epoch, values=values))


async def export(database: Database, experiment_id: str, folder: Path) -> Path:
    writer = BundleWriter(folder)
    async with database.read() as session:
        found = await bundles.jobs_to_export(session, experiment_id)
        row = await experiments.get(session, experiment_id)
        writer.add_document("experiment.json", bundles.experiment_file(row))
        with writer.lines("jobs.jsonl") as add:
            add(await bundles.job_lines(session, found))
        for name in bundles.LINES:
            with writer.lines(name) as add:
                for job in found:
                    add(await bundles.lines_of(session, name, job.id))
    writer.pack(folder / "bundle.tar", experiment_id, "0.1.0")
    return folder / "bundle.tar"


async def everything(database: Database, experiment_id: str) -> dict[str, Any]:
    """Return everything that the pages of an experiment show."""
    async with database.read() as session:
        row = await experiments.get(session, experiment_id)
        found = (await session.scalars(select(Job).where(Job.experiment_id == experiment_id).order_by(Job.id))).all()
        return {
            "experiment": bundles.experiment_file(row),
            "summaries": {job.id: job.summary for job in found},
            "jobs": await bundles.job_lines(session, found),
            "labels": {job.id: await jobs.labels(session, [job.id]) for job in found},
            "metrics": [
                (m.attempt_id, m.step, m.kind, m.values, m.time)
                for job in found
                for m in await metrics.rows(session, job.id, superseded=True)
            ],
            "attempts": {job.id: await bundles.lines_of(session, "attempts.jsonl", job.id) for job in found},
            "history": {
                job.id: [(e.data, e.time) for e in await events.of_type(session, job.id, "status")] for job in found
            },
        }


async def test_what_was_taken_in_is_what_was_there(database: Database, experiment: str, tmp_path: Path) -> None:
    path = await export(database, experiment, tmp_path)
    before = await everything(database, experiment)
    async with database.write() as session:
        await experiments.delete(session, experiment)
    with Bundle(path) as bundle:
        taken, is_new = await bundles.import_bundle(database, bundle)

    assert (taken, is_new) == (experiment, True)
    assert await everything(database, experiment) == before
    assert any(before["summaries"].values())


async def test_a_bundle_of_format_1_is_read(database: Database, experiment: str, tmp_path: Path) -> None:
    """It had the first worker of an attempt in two fields, another name for the requested state, and no precision.

    Attempts had no usage.
    """
    async with database.write() as session:
        await session.execute(update(Attempt).values(cpu_s=None, peak_memory_bytes=None))
    path = await export(database, experiment, tmp_path)
    before = await everything(database, experiment)

    def as_format_1(name: str, line: dict[str, Any]) -> dict[str, Any]:
        if name == "experiment.json":
            line["wish"] = line.pop("requested_state")
        if name in ("experiment.json", "jobs.jsonl"):
            assert line.pop("precision") == "float32", "as its attempts ran"
        if name == "attempts.jsonl":
            for name_ in ("cpu_s", "peak_memory_bytes", "peak_gpu_memory_bytes", "gpu_utilization"):
                assert line.pop(name_) is None
            workers = line.pop("workers")
            line |= workers[0] | {"workers": workers if len(workers) > 1 else None}
        if name == "manifest.json":
            line["format"] = 1
        return line

    (tmp_path / "old").mkdir()
    writer = BundleWriter(tmp_path / "old")
    with Bundle(path) as bundle:
        for name in bundle.manifest.files:
            text = (tmp_path / name).read_text()
            lines = [text] if name == "experiment.json" else text.splitlines()
            with writer.lines(name) as add:
                add([json.dumps(as_format_1(name, json.loads(line))) for line in lines])
    writer.pack(tmp_path / "new.tar", experiment, "0.1.0")
    with tarfile.open(tmp_path / "new.tar") as new, tarfile.open(tmp_path / "old.tar", "w") as old:
        for member in new:
            content = new.extractfile(member)
            assert content is not None
            data = content.read()
            if member.name == "manifest.json":
                data = json.dumps(as_format_1(member.name, json.loads(data))).encode()
                member.size = len(data)
            old.addfile(member, io.BytesIO(data))
    async with database.write() as session:
        await experiments.delete(session, experiment)
    with Bundle(tmp_path / "old.tar") as bundle:
        await bundles.import_bundle(database, bundle)

    assert await everything(database, experiment) == before


async def test_an_import_keeps_existing_rows(database: Database, experiment: str, tmp_path: Path) -> None:
    path = await export(database, experiment, tmp_path)
    async with database.write() as session:
        await experiments.rename(session, await experiments.get(session, experiment, lock=True), "another name")
    before = await everything(database, experiment)
    with Bundle(path) as bundle:
        _, is_new = await bundles.import_bundle(database, bundle)

    assert not is_new
    assert await everything(database, experiment) == before


async def test_a_job_that_belongs_elsewhere_here_is_a_conflict_and_nothing_is_stored(
    database: Database, experiment: str, tmp_path: Path
) -> None:
    path = await export(database, experiment, tmp_path)
    async with database.write() as session:
        for job in await session.scalars(select(Job)):
            job.experiment_id = None
        await session.delete(await experiments.get(session, experiment))
    with Bundle(path) as bundle, pytest.raises(Conflict, match="already exists in another experiment"):
        await bundles.import_bundle(database, bundle)
    async with database.read() as session:
        assert await session.scalar(select(func.count()).select_from(Experiment)) == 0


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("jobs.jsonl", lambda lines: [*lines, lines[0]], BundleError),
        ("metrics.jsonl", lambda lines: [*lines, lines[0]], IntegrityError),
        ("attempts.jsonl", lambda lines: [lines[0].replace('"job_id":"job_', '"job_id":"joe_')], BundleError),
    ],
)
async def test_a_bundle_that_contradicts_itself_is_refused_and_nothing_is_stored(
    database: Database, experiment: str, tmp_path: Path, name: str, change: Any, error: type[Exception]
) -> None:
    (tmp_path / "changed").mkdir()
    writer = BundleWriter(tmp_path / "changed")
    with Bundle(await export(database, experiment, tmp_path)) as bundle:
        for file in bundle.manifest.files:
            lines = (tmp_path / file).read_text().splitlines()
            with writer.lines(file) as add:
                add(change(lines) if file == name else lines)
    writer.pack(tmp_path / "changed.tar", experiment, "0.1.0")
    async with database.write() as session:
        await experiments.delete(session, experiment)
    with Bundle(tmp_path / "changed.tar") as bundle, pytest.raises(error):
        await bundles.import_bundle(database, bundle)
    async with database.read() as session:
        for table in (Experiment, Job, Metric):
            assert await session.scalar(select(func.count()).select_from(table)) == 0


async def test_an_experiment_that_has_not_ended_makes_no_bundle(database: Database) -> None:
    request = ExperimentRequest.model_validate(
        {"grid": {"seed": [0, 1]}, "base": {"normalization": {"type": "batch"}, "batch_size": 2}}
    ).resolved()
    async with database.write() as session:
        id_ = (await experiments.create(session, request, expand(request))).id
    async with database.read() as session:
        with pytest.raises(Conflict, match="has 2 jobs that have not ended"):
            await bundles.jobs_to_export(session, id_)


async def test_checkpoints_are_described(database: Database, experiment: str) -> None:
    async with database.read() as session:
        first, _ = await bundles.jobs_to_export(session, experiment)
        (checkpoint,) = await checkpoints.of_job(session, first.id)
        line = CheckpointLine.model_validate_json(bundles.checkpoint_line(checkpoint))
    assert (line.id, line.job_id, line.step, line.metrics) == (checkpoint.id, first.id, 3, {"test_error": 0.7})
