"""The query that compares experiments, and its evaluation."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from service.api.filters import Text
from service.api.result_query import QuestionQuery
from service.api.schemas.comparison import ExperimentComparison, comparison_view
from service.errors import Unprocessable
from service.experiments import compared, results
from service.experiments.compared import Member
from service.experiments.quantities import LABELS
from service.experiments.request import ExperimentRequest
from service.experiments.results import Question, tabulate
from service.experiments.runs import Run
from service.experiments.search import search_of
from service.experiments.statistics import Analysis, analyse
from service.experiments.titles import with_datasets
from service.store import Database, experiments
from service.store import results as stored
from service.store.listing import JobFilter
from service.store.tables import Experiment

MAX_EXPERIMENTS = 10
"""The number of experiments that one table may have."""


class ComparedQuery(QuestionQuery):
    """A question about several experiments. Metric, statistic, rows and columns are by default those of the first.

    Of a tuned experiment, the jobs with the chosen values are compared.
    """

    experiment: list[Text] = Field(
        min_length=2, max_length=MAX_EXPERIMENTS, description="ids of the experiments, in the order of the table"
    )


class ComparisonQuery(ComparedQuery):
    """A query for a comparison of experiments."""

    table: Literal["cells", "differences"] = Field(default="cells", description="the table of CSV")


@dataclass(frozen=True)
class _Read:
    """What is known of one experiment before the computation."""

    experiment: Experiment
    request: ExperimentRequest
    runs: Sequence[Run]
    values: dict[str, float | None] | None

    @property
    def title(self) -> str:
        return with_datasets(self.experiment.name or self.experiment.id, self.request.datasets)


async def compare_experiments(database: Database, query: ComparedQuery) -> ExperimentComparison:
    """Return the cells of several experiments side by side, with the differences of those that they share.

    Raises:
        NotFound: An experiment does not exist.
        Unprocessable: The query is inconsistent, or names an experiment twice.
    """
    if len(set(query.experiment)) < len(query.experiment):
        raise Unprocessable("experiment names one experiment twice: give each id once.")
    read: list[_Read] = []
    async with database.read() as session:
        found = [await experiments.get(session, id_) for id_ in query.experiment]
        question = query.question(results.question_of(experiments.request_of(found[0])))
        filters = [JobFilter(experiment=experiment.id, where=query.selecting()) for experiment in found]
        labelled = any(name.startswith(LABELS) for name in (question.rows, question.columns))
        runs = [await stored.runs(session, filter_, labelled=labelled) for filter_ in filters]
        metric = question.metric or results.evaluation_metric([run for some in runs for run in some])
        question = replace(question, metric=metric)
        for experiment, some, filter_ in zip(found, runs, filters, strict=True):
            step = question.step
            values = None if step is None else await stored.values_at(session, filter_, metric, step)
            read.append(_Read(experiment, experiments.request_of(experiment), some, values))
    # In a thread: with many jobs the computation would delay other requests.
    return await asyncio.to_thread(_answer, read, question, query.confidence)


def _answer(read: Sequence[_Read], question: Question, confidence: float) -> ExperimentComparison:
    shown = [search_of(one.request).at_stage(one.runs, "tuned") if one.request.tune else one.runs for one in read]
    whole = tabulate([run for runs in shown for run in runs], question)
    members: list[Member] = []
    analyses: list[Analysis] = []
    for one, runs in zip(read, shown, strict=True):
        table = tabulate(runs, whole.question, one.values)
        plan = results.seed_plan(one.request)
        members.append(Member(one.experiment.id, _distinct(one, read), table, plan is not None))
        analyses.append(analyse(table.observations, cells=list(table.cells), confidence=confidence, plan=plan))
    return comparison_view(
        whole,
        members,
        analyses,
        compared.differences(members, confidence=confidence),
        compared.compared_warnings(members),
    )


def _distinct(one: _Read, read: Sequence[_Read]) -> str:
    """Return the title of an experiment, with its id if another one has the same title."""
    twins = sum(other.title == one.title for other in read) > 1
    return f"{one.title} ({one.experiment.id})" if twins else one.title
