"""Results: a table of means with intervals, and which differences in it are real."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.context import Context, ExperimentId
from service.api.filters import JobFilterQuery, Text
from service.api.http.negotiation import preferred
from service.api.http.problems import describe
from service.api.schemas import result_table
from service.api.schemas.experiment import sequential_view
from service.api.schemas.result import Results, results_view
from service.api.schemas.result_table import CSV, MEDIA_TYPES, PARQUET
from service.errors import Unprocessable
from service.experiments import axes, results
from service.experiments.confounds import Confound
from service.experiments.request import Statistic
from service.experiments.results import Question
from service.experiments.runs import Run
from service.experiments.statistics import analyse
from service.store import experiments
from service.store import results as stored
from service.store.listing import JobFilter
from service.store.tables import Experiment
from worker.metrics import OutcomeMetric

router = APIRouter(tags=["results"])


class ResultsQuery(BaseModel):
    """Which table."""

    model_config = ConfigDict(extra="forbid")

    metric: OutcomeMetric | None = Field(
        default=None,
        description="default: what the experiment declared, else test_error; holdout_error where images are held out",
    )
    statistic: Statistic | None = Field(
        default=None,
        description="default: what the experiment declared, else final. best: the least value (the most of "
        "images_per_s); median_last_5: of the last five evaluations, or of all where there are fewer",
    )
    step: int | None = Field(default=None, ge=0, lt=2**31, description="of the statistic at_step, and only of it")
    rows: Text | None = Field(default=None, description="field that is compared, as normalization.num_groups")
    columns: Text | None = Field(default=None, description="field within whose values it is compared")
    where: list[Annotated[Text, Field(pattern="^[^:]+:")]] = Field(
        default_factory=list, description="field:label; only jobs with this value of another field"
    )
    confidence: float = Field(default=0.95, ge=0.5, le=0.999)
    table: Literal["cells", "comparisons", "observations"] = Field(
        default="cells", description="which one CSV and Parquet have"
    )

    def question(self, declared: Question) -> Question:
        """What is asked, where not given as it was declared. Raises `Unprocessable`."""
        given = self.model_dump(include={"metric", "statistic", "rows", "columns", "step"}, exclude_none=True)
        question = replace(declared, **given, where=self._where())
        for name in ("rows", "columns"):
            if not axes.is_field(value := getattr(question, name)):
                raise Unprocessable(f"{name} is {value!r}: {_ACCEPTED}")
        if question.rows == question.columns:
            raise Unprocessable(f"rows and columns are both {question.rows}: give two fields.")
        if (question.step is None) == (question.statistic == "at_step"):
            raise Unprocessable("step and the statistic at_step belong together: give both, or neither.")
        if question.statistic == "median_last_5" and not (question.metric or "test").startswith(("test", "holdout")):
            raise Unprocessable(f"median_last_5 is of evaluations, and {question.metric} is not one: give another.")
        return question

    def _where(self) -> dict[str, list[str]]:
        where: dict[str, list[str]] = {}
        for entry in self.where:
            name, _, label = entry.partition(":")
            if not axes.is_field(name):
                raise Unprocessable(f"where names the field {name!r}: {_ACCEPTED}")
            where.setdefault(name, []).append(label)
        return where


_ACCEPTED = f"give one of {', '.join(axes.fields())}, or a part of one, as in optimizer.learning_rate."


class JobResultsQuery(ResultsQuery, JobFilterQuery):
    """Which table, of which jobs."""


TABLES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The results; with Accept: text/csv, or application/vnd.apache.parquet, one flat table of them",
        "content": {
            CSV: {"schema": {"type": "string"}},
            PARQUET: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get(
    "/v1/experiments/{experiment_id}/results",
    operation_id="get_experiment_results",
    response_model=Results,
    responses=describe(401, 404, 406, 422, answers=TABLES),
)
async def of_experiment(
    request: Request, context: Context, experiment_id: ExperimentId, query: Annotated[ResultsQuery, Query()]
) -> Results | Response:
    """The results of an experiment, also while it runs: of the outcome it declared, unless another one is asked for."""
    async with context.database.read() as session:
        view = await experiment_results(session, await experiments.get(session, experiment_id), query)
    return _negotiated(request, query, view)


async def experiment_results(
    session: AsyncSession, experiment: Experiment, query: ResultsQuery | None = None
) -> Results:
    """The results of an experiment, of its declared outcome by default. Raises `Unprocessable` for a bad question."""
    query = query or ResultsQuery()
    question = query.question(results.question_of(experiments.request_of(experiment)))
    asked = await _asked(session, JobFilter(experiment=experiment.id), question)
    # In a thread: with many jobs it takes long enough for other requests to notice.
    return await asyncio.to_thread(_answer, *asked, query.confidence, experiment)


@router.get(
    "/v1/results",
    operation_id="get_results",
    response_model=Results,
    responses=describe(401, 406, 422, answers=TABLES),
)
async def of_jobs(request: Request, context: Context, query: Annotated[JobResultsQuery, Query()]) -> Results | Response:
    """The results of any jobs, chosen as in the list of jobs."""
    async with context.database.read() as session:
        asked = await _asked(session, query.job_filter(), query.question(Question()))
    return _negotiated(request, query, await asyncio.to_thread(_answer, *asked, query.confidence))


async def _asked(
    session: AsyncSession, filter_: JobFilter, question: Question
) -> tuple[Sequence[Run], Question, dict[str, float | None] | None]:
    """The jobs; the question, with its metric where that is needed; and the values at its step, where it has one."""
    runs = await stored.runs(session, filter_)
    if question.step is None:
        return runs, question, None
    metric = question.metric or results.evaluation_metric([run.spec for run in runs])
    values = await stored.values_at(session, filter_, metric, question.step)
    return runs, replace(question, metric=metric), values


def _answer(
    runs: Sequence[Run],
    question: Question,
    values: dict[str, float | None] | None,
    confidence: float,
    experiment: Experiment | None = None,
) -> Results:
    table = results.tabulate(runs, question, values)
    warnings: list[Confound] = [*results.warnings(table.runs), *results.pooling(table)]
    cells = list(table.cells)
    if experiment is None:
        return results_view(table, analyse(table.observations, cells=cells, confidence=confidence), warnings)
    request = experiments.request_of(experiment)
    plan = results.seed_plan(request)
    if plan is not None:
        warnings += results.undeclared(table, results.question_of(request))
    return results_view(
        table,
        analyse(table.observations, cells=cells, confidence=confidence, plan=plan),
        warnings,
        experiment={"id": experiment.id, "name": experiment.name, "budget": request.budget},
        sequential=sequential_view(experiment, plan, table.runs),
    )


def _negotiated(request: Request, query: ResultsQuery, view: Results) -> Results | Response:
    accepted = preferred(request.headers.get("accept"), MEDIA_TYPES)
    if accepted not in (CSV, PARQUET):
        # Already what the schema says: to have it checked once more would take as long as to compute it.
        return Response(view.model_dump_json(), media_type="application/json")
    rows: Sequence[dict[str, Any]] = result_table.TABLES[query.table](view)
    if accepted == CSV:
        return Response(result_table.as_csv(rows), media_type=CSV)
    return Response(result_table.as_parquet(rows), media_type=PARQUET)
