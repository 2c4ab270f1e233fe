"""Jobs: submit, list, change, control and delete them."""

import asyncio
import logging
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, Field

from service.api.context import Context, JobId
from service.api.filters import JobFilterQuery, Text, part_of_id
from service.api.http import idempotency, preconditions
from service.api.http.auth import AuthorizedClient, Client
from service.api.http.idempotency import IdempotencyKey
from service.api.http.preconditions import IfMatch
from service.api.http.problems import describe
from service.api.schemas.anonymous import anonymous
from service.api.schemas.job import JobDetail, JobView, job_detail, job_url, job_views
from service.api.schemas.queue import QueuePlace, queue_place
from service.cluster_report import ClusterReport
from service.jobs import JobChange, JobExtension, JobRequest, Status
from service.store import (
    ConstraintViolated,
    Database,
    changes,
    extensions,
    jobs,
    leases,
    listing,
    ordering,
    queue,
    results,
)
from service.store.listing import JobFilter
from service.store.tables import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
log = logging.getLogger(__name__)

TAGGED = {
    "description": "The job",
    "headers": {"ETag": {"schema": {"type": "string"}, "description": "of its name, notes and labels, for `If-Match`"}},
}
CREATED = {"description": "The job", "headers": {"Location": {"schema": {"type": "string"}}}}


class JobPage(BaseModel):
    """A page of jobs, in the order of `sort`."""

    data: list[JobView]
    next_cursor: str | None = Field(description="pass it as `cursor`; null on the last page")
    total: int | None = Field(default=None, description="with `count`: number of jobs on all pages")


class JobsQuery(JobFilterQuery):
    """The jobs to select, their order, and their number."""

    id: Text | None = part_of_id("job")
    sort: Text = Field(
        default="-created_at",
        description=ordering.DESCRIPTION,
        json_schema_extra={"pattern": ordering.PATTERN},
    )
    limit: int = Field(default=50, ge=1, le=200, description="jobs per page")
    cursor: str | None = Field(default=None, max_length=1000, description="next_cursor of the previous page")
    count: bool = Field(default=False, description="true: also count the jobs on all pages")

    def job_filter(self) -> JobFilter:
        """Return the filter in the form of the store."""
        return replace(super().job_filter(), id=self.id)


@router.post(
    "",
    operation_id="submit_job",
    status_code=201,
    responses=describe(400, 401, 403, 413, 415, 422, 429, answers={201: CREATED}),
)
async def submit(
    context: Context,
    client: AuthorizedClient,
    request: Annotated[JobRequest, Body()],
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobDetail:
    """Queue a training job. A job that is not valid is refused, and nothing is stored."""
    try:
        job = await _create_once(context.database, client, idempotency_key, request)
    except ConstraintViolated:
        # Another replica received the same key at the same time: its job is the answer.
        job = await _create_once(context.database, client, idempotency_key, request)
    response.headers["Location"] = job_url(job.id)
    async with context.database.read() as session:
        return await job_detail(session, job)


async def _create_once(database: Database, client: Client, key: str | None, request: JobRequest) -> Job:
    async with database.write() as session:
        if key is None:
            return await jobs.create(session, request, by=client.submitter)
        print_ = idempotency.fingerprint(request)
        answer = await idempotency.answered(session, client.name, key, print_)
        if answer is not None:
            return await jobs.get(session, answer)
        job = await jobs.create(session, request, by=client.submitter)
        await jobs.remember_answer(session, client.name, key, print_, job.id)
        return job


@router.get("", operation_id="list_jobs", responses=describe(401, 422))
async def find(context: Context, client: AuthorizedClient, query: Annotated[JobsQuery, Query()]) -> JobPage:
    """The jobs that match all filters. Pages stay consistent while jobs are added."""
    filter_ = query.job_filter()
    async with context.database.read() as session:
        found, cursor = await listing.page(session, filter_, sort=query.sort, limit=query.limit, cursor=query.cursor)
        views = await job_views(session, found)
        total = await listing.count(session, filter_) if query.count else None
    data = [anonymous(view) for view in views] if client.is_anonymous else views
    return JobPage(data=data, next_cursor=cursor, total=total)


@router.get("/{job_id}", operation_id="get_job", responses=describe(401, 404, answers={200: TAGGED}))
async def show(context: Context, client: AuthorizedClient, job_id: JobId, response: Response) -> JobDetail:
    """One job, with its attempts and the history of its states."""
    async with context.database.read() as session:
        found = await job_detail(session, await jobs.get(session, job_id))
    return _tagged(response, anonymous(found) if client.is_anonymous else found)


@router.patch(
    "/{job_id}",
    operation_id="change_job",
    responses=describe(400, 401, 403, 404, 412, 413, 415, 422, answers={200: TAGGED}),
)
async def change(
    context: Context,
    job_id: JobId,
    wanted: Annotated[JobChange, Body()],
    response: Response,
    if_match: IfMatch = None,
) -> JobDetail:
    """Change the name, the notes, the labels or the priority of a job, in any status. Its spec never changes.

    With `If-Match`, nothing is changed if another client has changed name, notes or labels since the ETag: 412.
    """
    async with context.database.write() as session:
        job = await jobs.get(session, job_id, lock=True)
        labels = (await jobs.labels(session, [job_id])).get(job_id, {})
        preconditions.require(if_match, preconditions.etag(job.name, job.notes, labels))
        return _tagged(response, await job_detail(session, await changes.change(session, job_id, wanted)))


@router.get("/{job_id}/queue", operation_id="get_queue_place", responses=describe(401, 404))
async def place(context: Context, job_id: JobId) -> QueuePlace:
    """The place of a job in the queue, and when it is expected to start."""
    async with context.database.read() as session:
        job = await jobs.get(session, job_id)
        if job.status is not Status.QUEUED:
            return QueuePlace(
                position=None, queued=(await jobs.count_by_status(session))[Status.QUEUED], starts_in_s=None
            )
        found = await queue.read(session)
        models = {job.spec["model"] for job in found.waiting} | {job.spec["model"] for job in found.active}
        speeds = await results.speeds(session, sorted(models))
        lease = await leases.get(session, "dispatcher")
    report = ClusterReport.read(lease.report if lease else None)
    return await asyncio.to_thread(queue_place, found, job_id, speeds, report)


def _tagged(response: Response, job: JobDetail) -> JobDetail:
    response.headers["ETag"] = preconditions.etag(job.name, job.notes, job.labels)
    return job


@router.delete("/{job_id}", operation_id="delete_job", status_code=204, responses=describe(401, 403, 404, 409))
async def delete(context: Context, job_id: JobId) -> None:
    """Delete a job that has ended, with its metrics and checkpoints."""
    async with context.database.write() as session:
        await jobs.delete(session, job_id)
    try:
        await asyncio.to_thread(context.artifacts.delete_job, job_id)
    except OSError:
        # Without rows the files are unreachable. The dispatcher removes files that belong to no job.
        log.exception("The files of %s could not be removed now", job_id)


VERBS = describe(401, 403, 404, 409)


@router.post("/{job_id}/cancel", operation_id="cancel_job", status_code=202, responses=VERBS)
async def cancel(context: Context, job_id: JobId) -> JobDetail:
    """Stop a job for good. Its status is cancelled once its worker is free. Idempotent."""
    async with context.database.write() as session:
        return await job_detail(session, await jobs.cancel(session, job_id))


@router.post("/{job_id}/pause", operation_id="pause_job", status_code=202, responses=VERBS)
async def pause(context: Context, job_id: JobId) -> JobDetail:
    """Stop a job at a checkpoint, until it is resumed."""
    async with context.database.write() as session:
        return await job_detail(session, await jobs.pause(session, job_id))


@router.post("/{job_id}/resume", operation_id="resume_job", status_code=202, responses=VERBS)
async def resume(context: Context, job_id: JobId) -> JobDetail:
    """Queue a paused job again. It continues from its checkpoint."""
    async with context.database.write() as session:
        return await job_detail(session, await jobs.resume(session, job_id))


@router.post(
    "/{job_id}/retry",
    operation_id="retry_job",
    status_code=202,
    responses=describe(401, 403, 404, 409, 429, answers={202: CREATED}),
)
async def retry(context: Context, client: AuthorizedClient, job_id: JobId, response: Response) -> JobDetail:
    """Queue a new job with the spec of one that failed or was cancelled. A repeat answers the same new job."""
    async with context.database.write() as session:
        job = await jobs.retry(session, job_id, client.submitter)
        response.headers["Location"] = job_url(job.id)
        return await job_detail(session, job)


@router.post(
    "/{job_id}/extend",
    operation_id="extend_job",
    status_code=202,
    responses=describe(400, 401, 403, 404, 409, 410, 413, 415, 422, 429, answers={202: CREATED}),
)
async def extend(
    context: Context,
    client: AuthorizedClient,
    job_id: JobId,
    wanted: Annotated[JobExtension, Body()],
    response: Response,
) -> JobDetail:
    """Queue a new job that continues one that has succeeded from its last checkpoint, until `epochs` epochs are done.

    Its weights and metrics will equal those of a job that was submitted with `epochs`. The schedule must be constant:
    the others are fixed to the length of the training. A repeat answers the same new job.
    """
    async with context.database.write() as session:
        job = await extensions.extend(session, job_id, wanted.epochs, client.submitter)
        response.headers["Location"] = job_url(job.id)
        return await job_detail(session, job)
