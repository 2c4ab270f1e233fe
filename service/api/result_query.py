"""Queries for results, and their evaluation."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from pydantic import Field

from service.api.filters import JobFilterQuery, Text, WhereQuery
from service.api.schemas.experiment import sequential_view
from service.api.schemas.result import Results, Tuned, results_view
from service.api.schemas.tuning import tuning_view
from service.errors import Unprocessable
from service.experiments import axes, results
from service.experiments.quantities import LABELS, Condition
from service.experiments.request import Statistic
from service.experiments.results import FailedAs, Question, ResultTable
from service.experiments.runs import Run, is_axis
from service.experiments.search import search_of
from service.experiments.statistics import Analysis, SeedPlan, analyse
from service.experiments.table_warnings import table_warnings
from service.store import Database, Session, experiments
from service.store import results as stored
from service.store.listing import JobFilter
from service.store.tables import Experiment
from worker.metrics import METRICS, OutcomeMetric


class QuestionQuery(WhereQuery):
    """A question about jobs: the values, and the rows and columns of their table."""

    metric: OutcomeMetric | None = Field(
        default=None,
        description="default: that of the declared outcome, else test_error, or holdout_error for jobs that are not "
        "evaluated on test images",
    )
    statistic: Statistic | None = Field(
        default=None,
        description="default: that of the declared outcome, else final. best: the least value (for images_per_s the "
        "greatest); for a metric of the test images in a job with a holdout, the value at the epoch that was best on "
        "the holdout. median_last_5: of the last five evaluations, or of all if there are fewer",
    )
    step: int | None = Field(default=None, ge=0, lt=2**31, description="the step of the statistic at_step")
    rows: Text | None = Field(
        default=None,
        description="field whose values are compared, as in normalization.num_groups, or label, as in labels.study",
    )
    columns: Text | None = Field(default=None, description="field within each value of which they are compared")
    confidence: float = Field(default=0.95, ge=0.5, le=0.999)
    failed: FailedAs = Field(
        default="omitted",
        description="how failed jobs count. omitted: not at all; chance: as the error of a guess, 0.9, if "
        "the metric is an error",
    )

    def question(self, declared: Question) -> Question:
        """Return the question, with defaults from `declared`. Raises `Unprocessable`."""
        given = self.model_dump(include={"metric", "statistic", "rows", "columns", "step", "failed"}, exclude_none=True)
        question = replace(declared, **given, where=self._where())
        for name in ("rows", "columns"):
            if not is_axis(value := getattr(question, name)):
                raise Unprocessable(f"{name} is {value!r}: {_ACCEPTED}")
        if question.rows == question.columns:
            raise Unprocessable(f"rows and columns are both {question.rows}: give two fields.")
        if (question.step is None) == (question.statistic == "at_step"):
            raise Unprocessable("step and the statistic at_step belong together: give both, or neither.")
        if question.failed == "chance" and (question.metric or "test_error") not in ERRORS:
            raise Unprocessable(
                f"failed is chance, and {question.metric} is no error, whose value by chance is known: give one of "
                f"{', '.join(ERRORS)}, or failed=omitted."
            )
        if question.statistic == "median_last_5" and not (question.metric or "test").startswith(("test", "holdout")):
            raise Unprocessable(
                f"median_last_5 needs a metric of evaluations, and {question.metric} is not one: give another."
            )
        return question

    def selecting(self) -> tuple[Condition, ...]:
        """Return the conditions that the store evaluates: not those on fields, whose values tables name by labels."""
        return tuple(one for one in self.conditions() if not _is_of_table(one))

    def _where(self) -> dict[str, list[str]]:
        where: dict[str, list[str]] = {}
        for one in filter(_is_of_table, self.conditions()):
            where.setdefault(one.quantity.name, []).append(one.value)
        return where


def _is_of_table(one: Condition) -> bool:
    return one.quantity.kind == "field" and one.operator == ":"


ERRORS = tuple(name for name in get_args(OutcomeMetric) if METRICS[name].quantity == "error")
_ACCEPTED = (
    f"give one of {', '.join(axes.fields())}, a part of one, as in optimizer.learning_rate, or a label, as in "
    f"{LABELS}study."
)


class ExperimentQuery(QuestionQuery):
    """A question about an experiment."""

    stage: Literal["tuned", "untuned"] | None = Field(
        default=None,
        description="with `tune`: the jobs with the chosen values (default), or those as they were given",
    )


class ResultsQuery(QuestionQuery):
    """A query for results."""

    table: Literal["cells", "comparisons", "observations", "choices"] = Field(
        default="cells", description="the table of CSV and Parquet; choices: what a tuned experiment searched"
    )


class ExperimentResultsQuery(ExperimentQuery, ResultsQuery):
    """A query for the results of an experiment."""


class JobResultsQuery(ResultsQuery, JobFilterQuery):
    """A query for the results of selected jobs."""


async def experiment_results(session: Session, experiment: Experiment, query: ExperimentQuery | None = None) -> Results:
    """Return the results of an experiment, by default of the outcome that it declared.

    Raises:
        Unprocessable: The query is inconsistent, or names a field that no job has.
    """
    query = query or ExperimentQuery()
    request = experiments.request_of(experiment)
    if query.stage is not None and request.tune is None:
        raise Unprocessable(f"stage is {query.stage}, and experiment {experiment.id} has no tune: leave it out.")
    question = query.question(results.question_of(request))
    asked = await _asked(session, JobFilter(experiment=experiment.id, where=query.selecting()), question)
    # In a thread: with many jobs the computation would delay other requests.
    return await asyncio.to_thread(_answer, *asked, query.confidence, experiment, query.stage or "tuned")


async def job_results(database: Database, query: JobResultsQuery) -> Results:
    """Return the results of the jobs that the query selects.

    Raises:
        Unprocessable: The query is inconsistent, or names a field that no job has.
    """
    async with database.read() as session:
        asked = await _asked(session, query.job_filter(), query.question(Question()))
    return await asyncio.to_thread(_answer, *asked, query.confidence)


async def _asked(
    session: Session, filter_: JobFilter, question: Question
) -> tuple[Sequence[Run], Question, dict[str, float | None] | None]:
    """Return the jobs, the question, and for the statistic at_step the values at its step."""
    labelled = any(name.startswith(LABELS) for name in (question.rows, question.columns))
    runs = await stored.runs(session, filter_, labelled=labelled)
    if question.step is None:
        return runs, question, None
    metric = question.metric or results.evaluation_metric(runs)
    values = await stored.values_at(session, filter_, metric, question.step)
    return runs, replace(question, metric=metric), values


def _answer(
    runs: Sequence[Run],
    question: Question,
    values: dict[str, float | None] | None,
    confidence: float,
    experiment: Experiment | None = None,
    stage: Literal["tuned", "untuned"] = "tuned",
) -> Results:
    request = None if experiment is None else experiments.request_of(experiment)
    if experiment is None or request is None:
        table, analysis = _analysed(runs, question, values, confidence)
        warnings = (*results.warnings(table.runs), *table_warnings(table, analysis.cells, confidence=confidence))
        return results_view(table, analysis, warnings)
    about = {"id": experiment.id, "name": experiment.name, "budget": request.budget}
    if request.tune is not None:
        search = search_of(request)
        other: Literal["tuned", "untuned"] = "untuned" if stage == "tuned" else "tuned"
        table, analysis = _analysed(search.at_stage(runs, stage), question, values, confidence)
        beside = _analysed(search.at_stage(runs, other), question, values, confidence)
        choices = search.choices(runs) if stage == "tuned" else ()
        confounds = search.warnings(runs) if stage == "tuned" else results.warnings(table.runs)
        warnings = (*confounds, *table_warnings(table, analysis.cells, confidence=confidence, choices=choices))
        tuned = Tuned(tuning_view(search, runs), stage, beside)
        return results_view(table, analysis, warnings, experiment=about, tuned=tuned)
    plan = results.seed_plan(request)
    table, analysis = _analysed(runs, question, values, confidence, plan)
    declared = None if plan is None else results.question_of(request)
    warnings = (
        *results.warnings(table.runs),
        *table_warnings(table, analysis.cells, confidence=confidence, declared=declared),
    )
    sequential = sequential_view(experiment, plan, table.runs)
    return results_view(table, analysis, warnings, experiment=about, sequential=sequential)


def _analysed(
    runs: Sequence[Run],
    question: Question,
    values: dict[str, float | None] | None,
    confidence: float,
    plan: SeedPlan | None = None,
) -> tuple[ResultTable, Analysis]:
    table = results.tabulate(runs, question, values)
    return table, analyse(table.observations, cells=list(table.cells), confidence=confidence, plan=plan)
