"""Result tables: the values of many jobs by row and column, and warnings about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Literal, cast

from pydantic import ValidationError

from service.experiments import axes
from service.experiments.confounds import Candidate, Confound, lint
from service.experiments.costs import device_kind
from service.experiments.quantities import LABELS
from service.experiments.request import ExperimentRequest, Statistic
from service.experiments.runs import Run, is_tested
from service.experiments.statistics import Observation, SeedPlan, plan_analyses
from service.jobs import TERMINAL, Status
from worker.architecture import NUM_CLASSES
from worker.metrics import OutcomeMetric, best_note, default_outcome
from worker.spec import TrainingSpec

NOT_OF_THE_TRAINING = frozenset({"seed", "recipe", "checkpoint"})
"""Fields in which jobs of one cell may differ: the seed, and those that do not influence the weights."""


FailedAs = Literal["omitted", "chance"]

CHANCE_ERROR = 1 - 1 / NUM_CLASSES
"""The error of a guess."""


@dataclass(frozen=True)
class Question:
    """A question about jobs. `rows` and `columns` are fields of a spec, `where` the labels of other fields to select.

    `step` belongs to the statistic at_step. `failed` is how failed jobs count: not at all, or, for an error, as
    `CHANCE_ERROR`.
    """

    metric: OutcomeMetric | None = None
    statistic: Statistic = "final"
    rows: str = "normalization"
    columns: str = "batch_size"
    step: int | None = None
    failed: FailedAs = "omitted"
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def statistic_title(self, notes: Sequence[str] = ()) -> str:
        """Return the human-readable name of the statistic, with the notes on how `best` was chosen."""
        match self.statistic:
            case "final":
                return "after the last epoch"
            case "median_last_5":
                return "median of the last five epochs"
            case "at_step":
                return f"at step {self.step}"
            case "best":
                return f"best epoch ({'; other jobs: '.join(notes)})" if notes else "best epoch"


@dataclass(frozen=True)
class ResultTable:
    """The jobs of a question by cell, and their values."""

    question: Question
    """With the default metric, if the question names none."""
    rows: Mapping[str, Any]
    """The label and the value of each row, in display order."""
    columns: Mapping[str, Any]
    cells: Mapping[tuple[str, str], Sequence[Run]]
    observations: Sequence[Observation]
    pooled: Sequence[str]
    """Fields in which jobs of one cell differ; empty if each cell is one configuration."""

    @property
    def runs(self) -> list[Run]:
        """All jobs of the table."""
        return [run for runs in self.cells.values() for run in runs]

    @property
    def statistic_title(self) -> str:
        """The human-readable name of the statistic."""
        metric = self.question.metric
        held_out = sorted({bool(run.holdout) for run in self.runs} or {False})
        notes = [best_note(metric, holdout=holdout) for holdout in held_out] if metric else []
        return self.question.statistic_title([note for note in dict.fromkeys(notes) if note])


def evaluation_metric(runs: Sequence[Run]) -> OutcomeMetric:
    """Return the default metric: test_error, or holdout_error if all have a holdout and some were not tested."""
    untested = any(not is_tested(run.spec, run.summary) for run in runs)
    return default_outcome(tested=not (untested and all(run.holdout for run in runs)))


def tabulate(
    runs: Sequence[Run], question: Question, values_at: Mapping[str, float | None] | None = None
) -> ResultTable:
    """Sort jobs into a table.

    A job gives a value once it has succeeded, or failed if failures count as chance. A job that ended without a value
    is an observation without one, a job that has not ended is none yet. For the statistic at_step, `values_at` has the
    values by job, and a job gives one as soon as it has passed that step.
    """
    labels = _Labels()
    for name, accepted in question.where.items():
        runs = [run for run in runs if labels.of(run, name) in accepted]
    metric = question.metric or evaluation_metric(runs)
    question = replace(question, metric=metric)
    rows, columns = (_values(runs, name, labels) for name in (question.rows, question.columns))
    cells: dict[tuple[str, str], list[Run]] = {(row, column): [] for row in rows for column in columns}
    for run in runs:
        cells[labels.of(run, question.rows), labels.of(run, question.columns)].append(run)
    cells = {cell: found for cell, found in cells.items() if found}
    blocks, pooled = _blocks(cells, question)
    observations = []
    for (row, column), found in cells.items():
        for run in found:
            if values_at is not None:
                observed, value = run.id in values_at or run.status in TERMINAL, values_at.get(run.id)
            else:
                observed, value = run.status in TERMINAL, _value(run, metric, question.statistic)
            if observed:
                failed = value is None and run.status is Status.FAILED
                if failed and question.failed == "chance":
                    value = CHANCE_ERROR
                observations.append(Observation(row, column, blocks[run.id], value, run.id, failed))
    return ResultTable(question, rows, columns, cells, observations, pooled)


def seed_plan(request: ExperimentRequest) -> SeedPlan | None:
    """Return the plan of sequential seeds, None if the seeds are fixed."""
    if request.seeds is None:
        return None
    return SeedPlan(tuple(range(request.seeds.max)), plan_analyses(request.seeds.min, request.seeds.max))


def question_of(request: ExperimentRequest) -> Question:
    """Return the question of an experiment: the outcome that it declared."""
    return Question(request.outcome.metric, request.outcome.statistic, request.rows, request.columns)


def warnings(runs: Sequence[Run]) -> tuple[Confound, ...]:
    """Return the confounds of these jobs: what besides rows and columns may explain a difference."""
    candidates = []
    for run, spec in zip(runs, trainings(runs), strict=True):
        if spec is not None:
            device = None if run.device is None else device_kind(run.device)
            candidates.append(Candidate(run.id, spec, device, run.precision, run.versions))
    return lint(candidates)


def planned_warnings(specs: Sequence[TrainingSpec]) -> tuple[Confound, ...]:
    """Return the confounds of planned jobs, each identified by its index."""
    return lint([Candidate(str(index), spec) for index, spec in enumerate(specs)])


def trainings(runs: Sequence[Run]) -> list[TrainingSpec | None]:
    """Return the specs of the jobs, None for a spec of another release that is not valid in this one."""
    read: dict[str, TrainingSpec | None] = {}
    found: list[TrainingSpec | None] = []
    for run in runs:
        if run.configuration not in read:
            try:
                read[run.configuration] = TrainingSpec.model_validate(run.spec)
            except ValidationError:
                read[run.configuration] = None
        known = read[run.configuration]
        found.append(None if known is None else known.model_copy(update={"seed": run.seed}))
    return found


class _Labels:
    """The labels of jobs by field, computed once per configuration."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def of(self, run: Run, name: str) -> str:
        """Return the label of one field of a job."""
        if name == "seed":
            return axes.label(name, run.seed)
        if name.startswith(LABELS):
            return axes.label(name, run.value(name))
        key = (run.configuration, name)
        if key not in self._known:
            self._known[key] = axes.label(name, run.value(name))
        return self._known[key]


def _values(runs: Sequence[Run], name: str, labels: _Labels) -> dict[str, Any]:
    """Return the values of a field by label: numbers in increasing order, others in the order of their jobs."""
    values: dict[str, Any] = {}
    for run in runs:
        if (label := labels.of(run, name)) not in values:
            values[label] = run.value(name)
    if all(isinstance(value, int | float) for value in values.values()):
        return dict(sorted(values.items(), key=lambda entry: cast(float, entry[1])))
    return values


def _blocks(
    cells: Mapping[tuple[str, str], Sequence[Run]], question: Question
) -> tuple[Mapping[str, int], Sequence[str]]:
    """Return the block within which each job is compared, and the fields that are pooled in some cell.

    The block is the seed. Where a cell has several configurations, it is the seed and the configuration together.
    """
    rest: dict[str, dict[str, str]] = {}
    pooled: set[str] = set()
    for runs in cells.values():
        present = {run.configuration: run.spec for run in runs}
        for configuration, spec in present.items():
            rest.setdefault(configuration, _texts(besides(spec, question)))
        for name in {name for configuration in present for name in rest[configuration]}:
            if len({rest[configuration].get(name) for configuration in present}) > 1:
                pooled.add(name)
    if not pooled:
        return {run.id: run.seed for runs in cells.values() for run in runs}, []
    numbers: dict[tuple[str, int], int] = {}
    of_run: dict[str, int] = {}
    texts = {configuration: axes.canonical(fields) for configuration, fields in rest.items()}
    for runs in cells.values():
        for run in runs:
            of_run[run.id] = numbers.setdefault((texts[run.configuration], run.seed), len(numbers))
    return of_run, sorted(pooled)


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    return {name: axes.canonical(value) for name, value in fields.items()}


def besides(spec: Mapping[str, Any], question: Question) -> dict[str, Any]:
    """Return the fields of a spec that are no axis and may not differ within a cell."""
    shown = (question.rows, question.columns)
    fields = {name: value for name, value in axes.with_added(spec).items() if name not in NOT_OF_THE_TRAINING}
    for name in {axes.parts_of(axis)[0] for axis in shown} & fields.keys():
        fields[name] = _without(fields[name], name, shown)
    return fields


def _without(value: Any, top: str, axes_: Sequence[str]) -> Any:
    """Return a part of a spec without the fields that are an axis."""
    if top in axes_:
        return None
    own = {axes.parts_of(name)[1] for name in axes_ if axes.parts_of(name)[0] == top}
    return {name: entry for name, entry in value.items() if name not in own} if isinstance(value, Mapping) else value


def _value(run: Run, metric: str, statistic: Statistic) -> float | None:
    summary = run.summary.get(metric)
    if run.status is not Status.SUCCEEDED or summary is None:
        return None
    match statistic:
        case "best":
            return cast(float, summary["best"])
        case "median_last_5":
            recent = summary.get("last_5")
            return median(recent) if recent else None
        case _:
            return cast(float, summary["last"])
