"""Reports: the results of an experiment as a document."""

from functools import partial
from platform import python_version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from service.api.context import Context, ExperimentId
from service.api.figure_query import SHUT, drawing
from service.api.http.auth import AuthorizedClient, Client
from service.api.http.negotiation import preferred
from service.api.http.problems import describe
from service.api.result_query import ExperimentQuery, experiment_results
from service.api.schemas.anonymous import anonymous
from service.api.schemas.experiment import experiment_detail
from service.experiments.results import FailedAs
from service.report import as_html, as_markdown, compose
from service.store import experiments, records
from service.store.records import JobRecord
from worker.metrics import OutcomeMetric

router = APIRouter(tags=["results"])

HTML, MARKDOWN = "text/html", "text/markdown"
UNNAMED = {"worker": "", "node": "an unnamed node"}
"""The worker of an attempt in a report for an anonymous link."""


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
                "description": "The report; by Accept: text/markdown as Markdown",
                "content": {kind: {"schema": {"type": "string"}} for kind in (HTML, MARKDOWN)},
            }
        },
    ),
)
async def show(
    request: Request,
    context: Context,
    client: AuthorizedClient,
    experiment_id: ExperimentId,
    metric: Annotated[OutcomeMetric | None, Query(description="default: that of the declared outcome")] = None,
    statistic: Annotated[
        Literal["final", "best", "median_last_5"] | None, Query(description="default: that of the declared outcome")
    ] = None,
    failed: Annotated[
        FailedAs, Query(description="how failed jobs count: omitted, or as the error of a guess")
    ] = "omitted",
    figure: Annotated[
        str, Query(max_length=300, pattern=r"^[^\s()<>]+$", description="the URL of the figure in Markdown")
    ] = "figure.svg",
) -> Response:
    """The report as one file: results, table and figure, every comparison, versions, hardware and hashes."""
    query = ExperimentQuery(metric=metric, statistic=statistic, failed=failed)
    async with context.database.read() as session:
        experiment = await experiments.get(session, experiment_id)
        found = await experiment_detail(session, experiment)
        results = await experiment_results(session, experiment, query)
        jobs = [_described(record, client) for record in await records.of_experiment(session, experiment_id)]
    found = anonymous(found) if client.is_anonymous else found
    versions = {"normlab": request.app.version, "python": python_version()}
    document = await drawing(
        partial(compose, found.model_dump(mode="json"), results.model_dump(mode="json"), jobs, versions, figure)
    )
    if preferred(request.headers.get("accept"), [HTML, MARKDOWN]) == MARKDOWN:
        return Response(as_markdown(document), media_type=MARKDOWN)
    headers = {"Content-Security-Policy": SHUT, "X-Content-Type-Options": "nosniff"}
    return Response(as_html(document), media_type=HTML, headers=headers)


def _described(record: JobRecord, client: Client) -> dict[str, Any]:
    """The parts of a job that a report shows."""
    job, latest = record.job, record.latest_checkpoint
    files = [{"name": name, **file} for name, file in latest.files.items()] if latest else []
    return {
        "id": job.id,
        "status": job.status,
        "spec": job.spec,
        "attempts": [
            {
                "device": attempt.device,
                "workers": [UNNAMED] if client.is_anonymous else attempt.workers,
                "versions": attempt.versions,
                "started_at": attempt.started_at.isoformat(timespec="seconds"),
            }
            for attempt in record.attempts
        ],
        "checkpoints": [{"files": files}] if latest else [],
    }
