"""Reports: what an experiment found, as a document for people."""

from collections.abc import Sequence
from itertools import groupby
from platform import python_version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.context import Context, ExperimentId
from service.api.http.negotiation import preferred
from service.api.http.problems import describe
from service.api.routes.results import ResultsQuery, experiment_results
from service.api.schemas.experiment import experiment_detail
from service.errors import NotFound
from service.report import as_html, as_markdown, compose
from service.store import experiments
from service.store.tables import Attempt, Checkpoint, Job
from worker.metrics import OutcomeMetric

router = APIRouter(tags=["results"])

HTML, MARKDOWN, SVG = "text/html", "text/markdown", "image/svg+xml"
SHUT = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
"""The page loads nothing and runs nothing; its style stands in it, so that it can be kept as one file."""


@router.get(
    "/v1/experiments/{experiment_id}/report",
    operation_id="get_report",
    response_class=Response,
    responses=describe(
        401,
        404,
        422,
        answers={
            200: {
                "description": "The report; by Accept: text/markdown as Markdown, by image/svg+xml its figure",
                "content": {kind: {"schema": {"type": "string"}} for kind in (HTML, MARKDOWN, SVG)},
            }
        },
    ),
)
async def show(
    request: Request,
    context: Context,
    experiment_id: ExperimentId,
    metric: Annotated[OutcomeMetric | None, Query(description="default: what the experiment declared")] = None,
    statistic: Annotated[
        Literal["final", "best", "median_last_5"] | None, Query(description="default: what the experiment declared")
    ] = None,
    figure: Annotated[
        str, Query(max_length=300, pattern=r"^[^\s()<>]+$", description="how Markdown refers to the figure")
    ] = "figure.svg",
) -> Response:
    """A web page in one file: the answer, its table and figure, every comparison, versions, hardware and hashes."""
    query = ResultsQuery(metric=metric, statistic=statistic)
    async with context.database.read() as session:
        experiment = await experiments.get(session, experiment_id)
        found = await experiment_detail(session, experiment)
        results = await experiment_results(session, experiment, query)
        jobs = await jobs_of(session, experiment_id)
    versions = {"normlab": request.app.version, "python": python_version()}
    document = compose(found.model_dump(mode="json"), results.model_dump(mode="json"), jobs, versions, figure)
    wanted = preferred(request.headers.get("accept"), [HTML, MARKDOWN, SVG])
    if wanted == MARKDOWN:
        return Response(as_markdown(document), media_type=MARKDOWN)
    if wanted == SVG:
        if not document.figures:
            raise NotFound("figure", f"of experiment {experiment_id}: no job of it has a value yet")
        return Response(document.figures[0].svg, media_type=SVG, headers={"Content-Security-Policy": SHUT})
    headers = {"Content-Security-Policy": SHUT, "X-Content-Type-Options": "nosniff"}
    return Response(as_html(document), media_type=HTML, headers=headers)


async def jobs_of(session: AsyncSession, experiment_id: str) -> Sequence[dict[str, Any]]:
    """The jobs of an experiment as a report needs them: three statements, however many they are."""
    found = (
        await session.scalars(select(Job).where(Job.experiment_id == experiment_id).order_by(Job.created_at, Job.id))
    ).all()
    of_it = select(Job.id).where(Job.experiment_id == experiment_id)
    attempts = await session.scalars(
        select(Attempt).where(Attempt.job_id.in_(of_it)).order_by(Attempt.job_id, Attempt.number)
    )
    by_job = {job: list(group) for job, group in groupby(attempts, lambda attempt: attempt.job_id)}
    checkpoints = await session.scalars(
        select(Checkpoint).where(Checkpoint.job_id.in_(of_it)).order_by(Checkpoint.job_id, Checkpoint.step.desc())
    )
    latest = {job: next(group) for job, group in groupby(checkpoints, lambda checkpoint: checkpoint.job_id)}
    return [
        {
            "id": job.id,
            "status": job.status,
            "spec": job.spec,
            "attempts": [
                {
                    "device": attempt.device,
                    "workers": attempt.workers,
                    "versions": attempt.versions,
                    "started_at": attempt.started_at.isoformat(timespec="seconds"),
                }
                for attempt in by_job.get(job.id, [])
            ],
            "checkpoints": [{"files": [{"name": name, **file} for name, file in latest[job.id].files.items()]}]
            if job.id in latest
            else [],
        }
        for job in found
    ]
