"""Checkpoints: their lists, and their files."""

import asyncio
import base64
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from service.api.context import CheckpointId, Context, JobId
from service.api.http.byte_ranges import byte_ranges
from service.api.http.problems import ProblemResponse, describe
from service.api.schemas.job import CheckpointView, checkpoint_view, checkpoint_views
from service.errors import CorruptFile, NotFound, RangeNotSatisfiable
from service.store import checkpoints, jobs
from worker.events import File

router = APIRouter(tags=["checkpoints"])

FileName = Annotated[str, Path(description="name of a file of the checkpoint")]
BINARY = {"schema": {"type": "string", "format": "binary"}}
BYTES: dict[str, Any] = {"application/octet-stream": BINARY, "application/json": BINARY}


class CheckpointList(BaseModel):
    """The stored checkpoints of a job, newest first."""

    data: list[CheckpointView]
    removed: int = Field(description="number of its checkpoints that retention has removed, see NORMLAB_RETENTION")
    next_cursor: None = Field(default=None, description="always null: all checkpoints of a job fit one page")


@router.get("/v1/jobs/{job_id}/checkpoints", operation_id="list_checkpoints", responses=describe(401, 404))
async def find(context: Context, job_id: JobId) -> CheckpointList:
    """The checkpoints of a job, newest first."""
    async with context.database.read() as session:
        await jobs.get(session, job_id)
        removed = await checkpoints.removed_of_job(session, job_id)
        return CheckpointList(data=await checkpoint_views(session, job_id), removed=removed)


@router.get(
    "/v1/jobs/{job_id}/checkpoints/{which}", operation_id="get_job_checkpoint", responses=describe(401, 404, 410)
)
async def pick(
    context: Context,
    job_id: JobId,
    which: Annotated[str, Path(description="`latest`, `best`, or the id of a checkpoint of this job")],
) -> CheckpointView:
    """One checkpoint of a job. `best` has the lowest error on the holdout, without one on the test images."""
    async with context.database.read() as session:
        await jobs.get(session, job_id)
        found = await checkpoint_views(session, job_id)
        for position, checkpoint in enumerate(found):
            if which == checkpoint.id or (which == "latest" and position == 0) or (which == "best" and checkpoint.best):
                return checkpoint
        if which not in ("latest", "best"):
            await checkpoints.require_not_removed(session, job_id, which)
        elif not found:
            await checkpoints.require_not_removed(session, job_id)
    raise NotFound("checkpoint", f"{which[:80]} of job {job_id}")


@router.get("/v1/checkpoints/{checkpoint_id}", operation_id="get_checkpoint", responses=describe(401, 404, 410))
async def show(context: Context, checkpoint_id: CheckpointId) -> CheckpointView:
    """One checkpoint: its step, its metrics, and its files with size and sha256."""
    async with context.database.read() as session:
        checkpoint = await checkpoints.get(session, checkpoint_id)
        best = checkpoints.best(await checkpoints.of_job(session, checkpoint.job_id))
        return checkpoint_view(checkpoint, best=checkpoint is best)


async def _serve(request: Request, context: Context, checkpoint_id: CheckpointId, name: FileName) -> Response:
    async with context.database.read() as session:
        checkpoint = await checkpoints.get(session, checkpoint_id)
    if name not in checkpoint.files:
        raise NotFound("file", f"{name[:80]} in checkpoint {checkpoint_id}")
    file = File(**checkpoint.files[name])
    try:
        path = await asyncio.to_thread(context.artifacts.verified, checkpoint.job_id, checkpoint_id, name, file)
        found = await asyncio.to_thread(path.stat)
    except (CorruptFile, FileNotFoundError):
        async with context.database.read() as session:
            await checkpoints.get(session, checkpoint_id)  # raises NotFound if it was removed in the meantime
        raise
    headers = {
        "ETag": f'"{file.sha256}"',
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if _has(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    kind = "application/json" if name.endswith(".json") else "application/octet-stream"
    return CheckpointFile(path, headers=headers, media_type=kind, filename=name, stat_result=found)


@router.get(
    "/v1/checkpoints/{checkpoint_id}/files/{name}",
    operation_id="download_file",
    response_class=FileResponse,
    responses=describe(
        401,
        404,
        410,
        416,
        answers={
            200: {"description": "The file", "content": BYTES},
            206: {
                "description": "The requested ranges",
                "content": BYTES | {"multipart/byteranges": BINARY},
            },
            304: {"description": "The client has the current file"},
        },
    ),
)
async def download(request: Request, context: Context, checkpoint_id: CheckpointId, name: FileName) -> Response:
    """The bytes of a file, verified against its sha256 before the first is sent. Accepts `Range` and `If-Range`."""
    return await _serve(request, context, checkpoint_id, name)


@router.head(
    "/v1/checkpoints/{checkpoint_id}/files/{name}",
    operation_id="describe_file",
    response_class=FileResponse,
    responses=describe(401, 404, 410, answers={200: {"description": "The headers of a GET, without the body"}}),
)
async def describe_file(request: Request, context: Context, checkpoint_id: CheckpointId, name: FileName) -> Response:
    """The headers of a download."""
    return await _serve(request, context, checkpoint_id, name)


class CheckpointFile(FileResponse):
    """An immutable file, as a whole or in ranges. A range that cannot be satisfied is answered as a problem."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or the ranges of it that the request names."""
        headers = Headers(scope=scope)
        if_range = headers.get("if-range")
        assert self.stat_result is not None
        size = self.stat_result.st_size
        others = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        asked = headers.get("range") if scope["method"] == "GET" else None
        if asked is not None and if_range in (None, self.headers["etag"]):
            try:
                ranges = byte_ranges(asked, size)
            except RangeNotSatisfiable as error:
                problem = ProblemResponse(
                    scope["request_id"],
                    error.status,
                    str(error),
                    error.title,
                    headers={"Content-Range": f"bytes */{size}"},
                )
                await problem(scope, receive, send)
                return
            if ranges:
                value = ",".join(f"{first}-{last}" for first, last in ranges)
                others.append((b"range", f"bytes={value}".encode()))
        await super().__call__({**scope, "headers": others}, receive, send)


def _has(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in if_none_match.split(","))
