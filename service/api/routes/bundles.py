"""Bundles: the export and import of an experiment as one file."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from service.api.context import Context, ExperimentId, Services
from service.api.http.problems import describe
from service.api.result_query import ExperimentQuery, experiment_results
from service.api.schemas.experiment import ExperimentDetail, experiment_detail, experiment_url
from service.errors import Unprocessable
from service.experiments.bundle import Bundle, BundleError, BundleWriter
from service.experiments.example import unpack_example
from service.store import ConstraintViolated, bundles, checkpoints, experiments
from service.store.tables import Checkpoint
from worker.events import File

router = APIRouter(tags=["experiments"])
log = logging.getLogger(__name__)

TAR = "application/x-tar"
Which = Literal["none", "best", "latest", "all"]
_TAR_BODY = {TAR: {"schema": {"type": "string", "format": "binary"}}}
_IMPORTED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The service has the experiment already; nothing was changed", "model": ExperimentDetail},
    201: {"description": "The experiment", "headers": {"Location": {"schema": {"type": "string"}}}},
}


@router.get(
    "/v1/experiments/{experiment_id}/bundle",
    operation_id="download_bundle",
    response_class=FileResponse,
    responses=describe(401, 404, 409, 422, answers={200: {"description": "The bundle", "content": _TAR_BODY}}),
)
async def download(
    request: Request,
    context: Context,
    experiment_id: ExperimentId,
    with_checkpoints: Annotated[
        Which, Query(alias="checkpoints", description="the checkpoints of each job whose files are included")
    ] = "none",
) -> Response:
    """An experiment whose jobs have ended, as one file: specs, metrics, results and versions, with a sha256 of each."""
    async with AsyncExitStack() as cleaning:
        folder = Path(cleaning.enter_context(tempfile.TemporaryDirectory(prefix="normlab-bundle-")))
        path = folder / f"{experiment_id}.tar"
        writer = BundleWriter(folder)
        await _collect(context, experiment_id, with_checkpoints, writer)
        try:
            await asyncio.to_thread(writer.pack, path, experiment_id, request.app.version)
        except BundleError as error:
            raise Unprocessable(f"There is no such bundle: {error}.") from error
        kept = cleaning.pop_all()
    return FileResponse(path, media_type=TAR, filename=path.name, background=BackgroundTask(kept.aclose))


@router.post(
    "/v1/bundles",
    operation_id="import_bundle",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": _TAR_BODY}},
    responses=describe(401, 403, 409, 413, 422, answers=_IMPORTED),
)
async def import_bundle(request: Request, context: Context, response: Response) -> ExperimentDetail:
    """Import an experiment from its bundle, with its ids. Checkpoints of the bundle are not imported."""
    with tempfile.NamedTemporaryFile(prefix="normlab-bundle-", suffix=".tar") as file:
        async for block in request.stream():
            file.write(block)
        file.flush()
        return await _import(context, Path(file.name), response)


@router.post(
    "/v1/bundles/example",
    operation_id="import_example",
    status_code=201,
    responses=describe(401, 403, 409, 422, answers=_IMPORTED),
)
async def import_example(context: Context, response: Response) -> ExperimentDetail:
    """Import the example: a finished study on images of CIFAR-10, which comes with the service."""
    with tempfile.NamedTemporaryFile(prefix="normlab-bundle-", suffix=".tar") as file:
        await asyncio.to_thread(unpack_example, Path(file.name))
        return await _import(context, Path(file.name), response)


async def _import(context: Services, path: Path, response: Response) -> ExperimentDetail:
    try:
        async with _opened(path) as bundle:
            experiment_id, is_new = await bundles.import_bundle(context.database, bundle)
    except BundleError as error:
        raise Unprocessable(f"Nothing was imported: {error}.") from error
    except ConstraintViolated as error:
        message = "Nothing was imported: a row of the bundle occurs twice, or belongs to another job of this service."
        raise Unprocessable(message) from error
    log.info("experiment imported", extra={"experiment": experiment_id, "new": is_new})
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = experiment_url(experiment_id)
    async with context.database.read() as session:
        return await experiment_detail(session, await experiments.get(session, experiment_id))


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[Bundle]:
    # In a thread, because the whole bundle is read and verified here.
    bundle = await asyncio.to_thread(Bundle(path).__enter__)
    try:
        yield bundle
    finally:
        bundle.__exit__()


async def _collect(context: Services, experiment_id: str, which: Which, writer: BundleWriter) -> None:
    chosen: list[Checkpoint] = []
    async with context.database.read() as session:
        experiment = await experiments.get(session, experiment_id)
        jobs = await bundles.jobs_to_export(session, experiment_id)
        writer.add_document("experiment.json", bundles.experiment_file(experiment))
        with writer.lines("jobs.jsonl") as add:
            add(await bundles.job_lines(session, jobs))
        for name in bundles.LINES:
            with writer.lines(name) as add:
                for job in jobs:
                    add(await bundles.lines_of(session, name, job.id))
        with writer.lines("checkpoints.jsonl") as add:
            for job in jobs:
                found = await checkpoints.of_job(session, job.id)
                add([bundles.checkpoint_line(checkpoint) for checkpoint in found])
                chosen += _choose(found, which)
        answer = await experiment_results(session, experiment, ExperimentQuery())
        writer.add_document("results.json", answer.model_dump(mode="json"))
    for checkpoint in chosen:
        for name, described in checkpoint.files.items():
            file = File.model_validate(described)
            path = await asyncio.to_thread(context.artifacts.verified, checkpoint.job_id, checkpoint.id, name, file)
            writer.add_file(f"checkpoints/{checkpoint.job_id}/{checkpoint.id}/{name}", path, file)


def _choose(newest_first: Sequence[Checkpoint], which: Which) -> Sequence[Checkpoint]:
    match which:
        case "all":
            return newest_first
        case "latest":
            return newest_first[:1]
        case "best":
            best = checkpoints.best(newest_first)
            return [best] if best else []
    return []
