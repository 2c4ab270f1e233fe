"""Evaluations of checkpoints on request: of other images, in another precision, by other statistics."""

from typing import Annotated, Literal

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from service.api.context import CheckpointId, Context, EvaluationId, JobId
from service.api.http.problems import describe
from service.api.schemas.evaluation import EvaluationView, evaluation_view
from service.store import evaluations, jobs
from worker.evaluation_spec import EvaluationSpec

router = APIRouter(tags=["checkpoints"])


class EvaluationList(BaseModel):
    """The evaluations of the checkpoints of a job, newest first."""

    data: list[EvaluationView]
    next_cursor: Literal[None] = Field(default=None, description="always null: they fit one page")


@router.post(
    "/v1/checkpoints/{checkpoint_id}/evaluate",
    operation_id="evaluate_checkpoint",
    status_code=202,
    responses=describe(400, 401, 403, 404, 410, 413, 415, 422),
)
async def evaluate(
    context: Context, checkpoint_id: CheckpointId, asked: Annotated[EvaluationSpec, Body()]
) -> EvaluationView:
    """Evaluate a checkpoint on the next idle worker. A repeat answers the same evaluation, unless that has failed.

    With `batch_statistics`, layers normalize as in training, by the statistics of batches of that many images: its
    difference to an evaluation without is what the running averages cost. With `precise_statistics`, the running
    averages are estimated again over that many training images: its difference to an evaluation without is what their
    noise and their lag cost.
    """
    async with context.database.write() as session:
        evaluation = await evaluations.request(session, checkpoint_id, asked)
        return evaluation_view(evaluation, await jobs.get(session, evaluation.job_id))


@router.get("/v1/evaluations/{evaluation_id}", operation_id="get_evaluation", responses=describe(401, 404))
async def show(context: Context, evaluation_id: EvaluationId) -> EvaluationView:
    """One evaluation: its status and, once it has succeeded, its result."""
    async with context.database.read() as session:
        evaluation = await evaluations.get(session, evaluation_id)
        return evaluation_view(evaluation, await jobs.get(session, evaluation.job_id))


@router.get("/v1/jobs/{job_id}/evaluations", operation_id="list_evaluations", responses=describe(401, 404))
async def find(context: Context, job_id: JobId) -> EvaluationList:
    """The evaluations of the checkpoints of a job, newest first. They stay when their checkpoint is removed."""
    async with context.database.read() as session:
        job = await jobs.get(session, job_id)
        return EvaluationList(data=[evaluation_view(one, job) for one in await evaluations.of_job(session, job_id)])
