"""Evaluations of checkpoints on request: of other images, in another precision, by other statistics."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, Field

from service.api.context import CheckpointId, Context, EvaluationId, JobId
from service.api.http.negotiation import preferred
from service.api.http.problems import describe
from service.api.schemas.evaluation import EvaluationView, confusion_rows, evaluation_view
from service.api.schemas.result_table import CSV, LATEX, as_csv
from service.errors import NotFound
from service.experiments.titles import job_title
from service.report import confusion_as_latex
from service.store import evaluations, jobs
from worker.evaluation_spec import EvaluationSpec

router = APIRouter(tags=["checkpoints"])

CONFUSION: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The evaluation; with Accept: text/csv, its confusion matrix; with application/x-latex, as a "
        "table of a paper",
        "content": {CSV: {"schema": {"type": "string"}}, LATEX: {"schema": {"type": "string"}}},
    }
}


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


@router.get(
    "/v1/evaluations/{evaluation_id}",
    operation_id="get_evaluation",
    response_model=EvaluationView,
    responses=describe(401, 404, answers=CONFUSION),
)
async def show(request: Request, context: Context, evaluation_id: EvaluationId) -> EvaluationView | Response:
    """One evaluation: its status and, once it has succeeded, its result."""
    async with context.database.read() as session:
        evaluation = await evaluations.get(session, evaluation_id)
        job = await jobs.get(session, evaluation.job_id)
    view = evaluation_view(evaluation, job)
    accepted = preferred(request.headers.get("accept"), ("application/json", CSV, LATEX))
    if accepted == "application/json":
        return view
    if view.predictions is None:
        raise NotFound("confusion matrix", f"of evaluation {evaluation_id}: it is {view.status}")
    if accepted == CSV:
        return Response(as_csv(confusion_rows(view.predictions)), media_type=CSV)
    return Response(confusion_as_latex(view.model_dump(), job_title(job.name, job.spec)), media_type=LATEX)


@router.get("/v1/jobs/{job_id}/evaluations", operation_id="list_evaluations", responses=describe(401, 404))
async def find(context: Context, job_id: JobId) -> EvaluationList:
    """The evaluations of the checkpoints of a job, newest first. They stay when their checkpoint is removed."""
    async with context.database.read() as session:
        job = await jobs.get(session, job_id)
        return EvaluationList(data=[evaluation_view(one, job) for one in await evaluations.of_job(session, job_id)])
