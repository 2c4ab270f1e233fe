"""Experiments: submit a grid of jobs, preview its cost, control, extend and delete it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.context import Context, ExperimentId, Services
from service.api.filters import Text, part_of_id
from service.api.http import idempotency
from service.api.http.auth import AuthorizedClient, Client
from service.api.http.idempotency import IdempotencyKey
from service.api.http.problems import describe
from service.api.schemas.anonymous import anonymous
from service.api.schemas.experiment import (
    BuiltInView,
    DryRun,
    ExperimentDetail,
    ExperimentView,
    built_in_view,
    dry_run,
    experiment_detail,
    experiment_url,
    experiment_views,
)
from service.experiments.builtin import STUDIES
from service.experiments.request import ExperimentRequest, PlannedJob
from service.experiments.search import first_jobs
from service.jobs import LabelChange
from service.store import ConstraintViolated, Database, Session, experiments, jobs
from service.store.tables import Experiment
from worker.validation import StrictModel

router = APIRouter(prefix="/v1/experiments", tags=["experiments"])
log = logging.getLogger(__name__)


class ExperimentPage(BaseModel):
    """Experiments, newest first."""

    data: list[ExperimentView]
    next_cursor: str | None = Field(description="pass it as `cursor`; null on the last page")


class BuiltIns(BaseModel):
    """The built-in experiments."""

    data: list[BuiltInView]


class ExperimentsQuery(BaseModel):
    """The experiments to select, and their number."""

    model_config = ConfigDict(extra="forbid")

    search: Text | None = Field(default=None, description="part of the name, in any case")
    submitted_by: list[Text] = Field(default_factory=list, description="names of the tokens that submitted them")
    id: Text | None = part_of_id("experiment")
    limit: int = Field(default=50, ge=1, le=200, description="experiments per page")
    cursor: str | None = Field(default=None, max_length=1000, description="next_cursor of the previous page")


class SubmissionQuery(BaseModel):
    """Whether to submit, or to preview."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(default=False, description="return a preview, and store nothing")


class ExperimentChange(StrictModel):
    """The fields to change. Omitted fields stay as they are."""

    name: str | None = Field(default=None, max_length=200)
    priority: int | None = Field(default=None, ge=-1000, le=1000, description="new priority of all its jobs")
    labels: LabelChange = Field(default_factory=dict, description="of all its jobs, also of those that are added later")
    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="values to add to fields of the grid, such as seed"
    )


CREATED = {"description": "The experiment", "headers": {"Location": {"schema": {"type": "string"}}}}
PREVIEW = {"description": "With dry_run: the jobs that would be queued, and their cost", "model": DryRun}


@router.post(
    "",
    operation_id="submit_experiment",
    status_code=201,
    response_model=ExperimentDetail,
    responses=describe(400, 401, 403, 413, 415, 422, 429, answers={200: PREVIEW, 201: CREATED}),
)
async def submit(
    context: Context,
    client: AuthorizedClient,
    request: Annotated[ExperimentRequest, Body()],
    query: Annotated[SubmissionQuery, Query()],
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> ExperimentDetail | Response:
    """Queue every combination of a grid. If one of them is not valid, nothing is stored.

    A dry run only reads: a read-only token may request it.
    """
    resolved = request.resolved()
    planned = first_jobs(resolved)
    if query.dry_run:
        async with context.database.read() as session:
            preview = await dry_run(session, resolved, planned)
        return Response(preview.model_dump_json(), media_type="application/json")
    client.check_may_write()
    print_ = idempotency.fingerprint(request)
    make = (context.database, client, idempotency_key, print_, resolved, planned)
    try:
        experiment = await _create_once(*make)
    except ConstraintViolated:
        # Another replica received the same key at the same time: its experiment is the answer.
        experiment = await _create_once(*make)
    response.headers["Location"] = experiment_url(experiment.id)
    async with context.database.read() as session:
        return await experiment_detail(session, experiment)


async def _create_once(
    database: Database,
    client: Client,
    key: str | None,
    print_: str,
    request: ExperimentRequest,
    planned: list[PlannedJob],
) -> Experiment:
    async with database.write() as session:
        if key is None:
            return await experiments.create(session, request, planned, by=client.submitter)
        answer = await idempotency.answered(session, client.name, key, print_)
        if answer is not None:
            return await experiments.get(session, answer)
        experiment = await experiments.create(session, request, planned, by=client.submitter)
        await jobs.remember_answer(session, client.name, key, print_, experiment.id)
        return experiment


@router.get("", operation_id="list_experiments", responses=describe(401, 422))
async def find(context: Context, query: Annotated[ExperimentsQuery, Query()]) -> ExperimentPage:
    """Experiments, newest first. Pages stay consistent while experiments are added."""
    async with context.database.read() as session:
        found, cursor = await experiments.page(session, **query.model_dump())
        return ExperimentPage(data=await experiment_views(session, found), next_cursor=cursor)


@router.get("/builtin", operation_id="list_builtin_experiments", responses=describe(401))
async def built_in() -> BuiltIns:
    """The experiments that can be submitted by name."""
    return BuiltIns(data=[built_in_view(name, study) for name, study in STUDIES.items()])


@router.get("/{experiment_id}", operation_id="get_experiment", responses=describe(401, 404))
async def show(context: Context, client: AuthorizedClient, experiment_id: ExperimentId) -> ExperimentDetail:
    """One experiment: its request, its progress, the time left, and the confounds in it."""
    async with context.database.read() as session:
        found = await experiment_detail(session, await experiments.get(session, experiment_id))
    return anonymous(found) if client.is_anonymous else found


@router.patch(
    "/{experiment_id}",
    operation_id="change_experiment",
    responses=describe(400, 401, 403, 404, 409, 413, 415, 422, 429),
)
async def change(
    context: Context,
    client: AuthorizedClient,
    experiment_id: ExperimentId,
    wanted: Annotated[ExperimentChange, Body()],
) -> ExperimentDetail:
    """Rename an experiment, change its priority, label its jobs, or add values to its grid. Idempotent.

    A label that is null is removed (RFC 7396); labels that are not given stay as they are.
    """
    async with context.database.write() as session:
        experiment = await experiments.get(session, experiment_id, lock=True)
        if wanted.name is not None:
            await experiments.rename(session, experiment, wanted.name)
        if wanted.priority is not None:
            await experiments.prioritize(session, experiment, wanted.priority)
        if wanted.labels:
            await experiments.label(session, experiment, wanted.labels)
        if wanted.grid:
            longer = experiments.request_of(experiment).extended(wanted.grid)
            await experiments.extend(session, experiment, longer, first_jobs(longer), by=client.submitter)
    async with context.database.read() as session:
        return await experiment_detail(session, experiment)


@router.delete(
    "/{experiment_id}", operation_id="delete_experiment", status_code=204, responses=describe(401, 403, 404, 409)
)
async def delete(context: Context, experiment_id: ExperimentId) -> None:
    """Delete an experiment whose jobs have all ended, with the jobs, their metrics and checkpoints."""
    async with context.database.write() as session:
        job_ids = await experiments.delete(session, experiment_id)
    for job_id in job_ids:
        try:
            await asyncio.to_thread(context.artifacts.delete_job, job_id)
        except OSError:
            # Without rows the files are unreachable. The dispatcher removes files that belong to no job.
            log.exception("The files of %s could not be removed now", job_id)


VERBS = describe(401, 403, 404, 409)


@router.post("/{experiment_id}/cancel", operation_id="cancel_experiment", status_code=202, responses=VERBS)
async def cancel(context: Context, experiment_id: ExperimentId) -> ExperimentDetail:
    """Stop all jobs of an experiment for good. Jobs that have ended keep their results. Idempotent."""
    return await _done(context, experiments.cancel, experiment_id)


@router.post("/{experiment_id}/pause", operation_id="pause_experiment", status_code=202, responses=VERBS)
async def pause(context: Context, experiment_id: ExperimentId) -> ExperimentDetail:
    """Stop all jobs of an experiment at a checkpoint, until it is resumed."""
    return await _done(context, experiments.pause, experiment_id)


@router.post("/{experiment_id}/resume", operation_id="resume_experiment", status_code=202, responses=VERBS)
async def resume(context: Context, experiment_id: ExperimentId) -> ExperimentDetail:
    """Queue all paused jobs of an experiment again. It is refused while the experiment is pausing."""
    return await _done(context, experiments.resume, experiment_id)


async def _done(
    context: Services, verb: Callable[[Session, str], Awaitable[Experiment]], experiment_id: str
) -> ExperimentDetail:
    """Apply an action, and read the experiment in a separate transaction, so that writers do not wait for the read."""
    async with context.database.write() as session:
        experiment = await verb(session, experiment_id)
    async with context.database.read() as session:
        return await experiment_detail(session, experiment)
