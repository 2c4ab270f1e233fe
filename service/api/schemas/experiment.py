"""The JSON of experiments, as clients see it."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.api.http.prefix import link
from service.api.schemas.axis import AxisView, grid_axes
from service.api.schemas.job import AsTrainingSpec
from service.api.schemas.tuning import PlannedTuningView, TuningView, planned_tuning_view, tuning_view
from service.cluster_report import ClusterReport
from service.experiments import costs, results
from service.experiments.builtin import BuiltIn, StudyName
from service.experiments.confounds import Confound, Severity
from service.experiments.precision import Workload, by_device, by_speed
from service.experiments.request import ExperimentRequest, PlannedJob, expand
from service.experiments.runs import Run, Speed
from service.experiments.search import search_of
from service.experiments.statistics import SeedPlan
from service.experiments.status import ExperimentStatus
from service.experiments.titles import with_datasets
from service.jobs import ACTIVE, TERMINAL, Status
from service.store import Session, experiments, leases
from service.store import results as stored
from service.store.listing import JobFilter
from service.store.tables import Experiment
from worker.events import Precision
from worker.spec import TrainingSpec


class WarningView(BaseModel):
    """A possible confound: a difference between jobs, other than rows and columns, that may explain an effect."""

    code: str = Field(description="stable identifier")
    detail: str = Field(description="sentences for readers")
    jobs: list[str] = Field(description="ids of the jobs concerned; in a dry run, their indices")
    severity: Severity = Field(description="warning: a comparison may be misleading; note: information only")


class ExperimentLinks(BaseModel):
    """Paths of resources that belong to an experiment."""

    self: str
    jobs: str
    results: str
    events: str


class SequentialView(BaseModel):
    """The plan and the progress of sequential seeds."""

    interim_analyses: list[int] = Field(description="number of seeds per cell at each interim analysis")
    seeds: int = Field(description="largest number of seeds that a cell has so far")
    interim_analysis: int = Field(description="number of the current interim analysis, from 1")
    deciding: bool = Field(description="whether more seeds may be added")
    procedure: str = Field(description="the statistical procedure in words")


class ExperimentView(BaseModel):
    """An experiment."""

    id: str
    name: str
    title: str = Field(description="display title: the name or the id, with the datasets other than CIFAR-10")
    status: ExperimentStatus
    builtin: StudyName | None
    budget: float
    priority: int
    rows: str = Field(description="the field that is compared")
    columns: str = Field(description="the field within whose values it is compared")
    grid: dict[str, list[Any]]
    axes: list[AxisView] = Field(description="the grid, each value with its label")
    jobs: int = Field(description="a retried job counts once, as its retry")
    counts: dict[Status, int] = Field(description="jobs by status; statuses without jobs are omitted")
    progress: float = Field(
        description="fraction of jobs that have ended, from 0 to 1; for a single experiment, fraction of its steps"
    )
    submitted_by: str | None = Field(
        description="name of the token that submitted it; null without tokens, and if it was imported"
    )
    created_at: datetime
    updated_at: datetime
    links: ExperimentLinks


class ExperimentDetail(ExperimentView):
    """An experiment, with values that are computed from its jobs."""

    request: ExperimentRequest = Field(description="the request, with all values that were added to its grid")
    precision: Precision | None = Field(
        description="format of the activations of its jobs with the precision `auto`; null until it is resolved, when "
        "the first of them starts"
    )
    eta_s: float | None = Field(
        description="seconds left at the current speeds; null if a speed is unknown, or tuned jobs wait for a search"
    )
    warnings: list[WarningView]
    sequential: SequentialView | None = Field(description="null if the seeds were fixed in advance")
    tuning: TuningView | None = Field(description="what is searched and chosen; null without `tune`")


class PlannedJobView(BaseModel):
    """A job that an experiment would create."""

    coordinates: dict[str, Any] = Field(description="its values of the fields of the grid")
    spec: Annotated[dict[str, Any], AsTrainingSpec()]
    cost_s: float = Field(description="estimated seconds of training and evaluation")


class CostView(BaseModel):
    """The estimated cost of an experiment."""

    device_s: float = Field(description="worker seconds of all jobs")
    elapsed_s: float | None = Field(
        description="seconds from the first start to the last end, on the current slots; null if these are unknown"
    )
    slots: int | None = Field(description="workers that can train at once; null if no dispatcher has reported it")
    basis: str = Field(description="a sentence on the basis of the estimate: measured speeds, or nominal ones")


class PrecisionView(BaseModel):
    """What the precision `auto` of the jobs of an experiment would be resolved to."""

    precision: Precision | None = Field(description="null: it depends on a measurement when the first job starts")
    reason: str = Field(description="a sentence that explains it")


class DryRun(BaseModel):
    """The jobs that a request would queue at once (not those that depend on others), their warnings and the whole cost.

    With sequential seeds the cost is that of the first interim analysis.
    """

    name: str
    axes: list[AxisView] = Field(description="the grid, each value with its label")
    jobs: list[PlannedJobView]
    cells: int
    most_jobs: int = Field(description="maximum number of jobs: with all seeds, and with those after a search")
    warnings: list[WarningView]
    precision: PrecisionView | None = Field(description="null: every job names its precision")
    cost: CostView
    tuning: PlannedTuningView | None = Field(description="the jobs by stage; null without `tune`")


class BuiltInView(BaseModel):
    """A built-in experiment."""

    name: StudyName
    title: str
    description: str
    request: ExperimentRequest = Field(description="the request that its name expands to")
    jobs: int


PROCEDURE = (
    "At each interim analysis every comparison is tested on the seeds of that analysis. P values are multiplied by the "
    "number of analyses (Bonferroni) and adjusted for all comparisons of the table (Holm 1979), so that the chance of "
    "any false finding over all analyses is at most 5 %. Seeds are added only to cells with a comparison that is not "
    "resolved."
)


def experiment_url(experiment_id: str) -> str:
    """Return the path of an experiment."""
    return link(f"/v1/experiments/{experiment_id}")


async def experiment_views(session: Session, found: Sequence[Experiment]) -> list[ExperimentView]:
    """Return the views of several experiments, computed from the statuses of their jobs only."""
    counted = await experiments.counts(session, [experiment.id for experiment in found])
    return [ExperimentView(**_fields(experiment, counted.get(experiment.id, {}))) for experiment in found]


async def experiment_detail(session: Session, experiment: Experiment) -> ExperimentDetail:
    """Return one experiment with values that are computed from its jobs."""
    request = experiments.request_of(experiment)
    counted = (await experiments.counts(session, [experiment.id])).get(experiment.id, {})
    runs = await stored.runs(session, JobFilter(experiment=experiment.id))
    # In a thread: with many jobs the computation would delay other requests.
    return await asyncio.to_thread(_detail, experiment, request, counted, runs)


def _detail(
    experiment: Experiment, request: ExperimentRequest, counted: Mapping[Status, int], runs: Sequence[Run]
) -> ExperimentDetail:
    search = search_of(request) if request.tune is not None else None
    tuning = tuning_view(search, runs) if search is not None else None
    progress, eta_s = _standing(runs, counted)
    if tuning is not None and tuning.missing:
        progress, eta_s = progress * len(runs) / (len(runs) + tuning.missing), None
    fields = _fields(experiment, counted) | {"progress": progress}
    return ExperimentDetail(
        **fields,
        request=request,
        precision=experiment.precision,
        eta_s=eta_s,
        warnings=warning_views(results.warnings(runs) if search is None else search.warnings(runs)),
        sequential=sequential_view(experiment, results.seed_plan(request), runs),
        tuning=tuning,
    )


async def dry_run(session: Session, request: ExperimentRequest, planned: Sequence[PlannedJob]) -> DryRun:
    """Preview the jobs, the warnings and the cost of a request."""
    search = search_of(request) if request.tune is not None else None
    later = [] if search is None else search.later_jobs()
    specs = [job.request.training for job in planned]
    # Jobs that follow a search cost about as much as without it.
    all_specs = [*specs, *(job.request.training for job in later)]
    compared = specs if search is None else [job.request.training for job in search.untuned_jobs()]
    speeds = await stored.speeds(session, sorted({spec.model for spec in specs}))
    lease = await leases.get(session, "dispatcher")
    report = ClusterReport.read(lease.report if lease else None)
    slots = report.slots.total or None if report else None
    estimate = costs.estimate(all_specs, speeds, slots)
    cells = len({job.cell for job in (planned if search is None else search.untuned_jobs())})
    removed = frozenset() if search is None else search.removed_confounds
    return DryRun(
        name=request.name,
        axes=grid_axes(request.grid),
        jobs=[
            PlannedJobView(coordinates=dict(job.coordinates), spec=spec.model_dump(mode="json"), cost_s=cost_s)
            for job, spec, cost_s in zip(planned, specs, estimate.job_s, strict=False)
        ],
        cells=cells,
        most_jobs=cells * request.seeds.max if request.seeds is not None else len(all_specs),
        warnings=warning_views([one for one in results.planned_warnings(compared) if one.code not in removed]),
        precision=_planned_precision(specs, report),
        cost=CostView(device_s=estimate.device_s, elapsed_s=estimate.elapsed_s, slots=slots, basis=estimate.basis),
        tuning=None if search is None else planned_tuning_view(search, estimate),
    )


def _planned_precision(specs: Sequence[TrainingSpec], report: ClusterReport | None) -> PrecisionView | None:
    jobs: Counter[Workload] = Counter((spec.model, spec.batch_size) for spec in specs if spec.precision == "auto")
    if not jobs:
        return None
    workers = [] if report is None else [one for one in report.workers if one.state != "starting"]
    found = by_device([(worker.device or "", worker.bfloat16) for worker in workers])
    if found is None and workers and report is not None:
        measured = {(step.model, step.batch_size): step for step in report.steps}
        if all(workload in measured for workload in jobs):
            steps: dict[Workload, Mapping[Precision, float]] = {
                workload: {"float32": measured[workload].float32_s, "bfloat16": measured[workload].bfloat16_s}
                for workload in jobs
            }
            found = by_speed(jobs, steps)
    if found is None:
        reason = "decided when the first job starts: bfloat16 if the workers compute in it and are faster with it"
        return PrecisionView(precision=None, reason=reason)
    return PrecisionView(precision=found.precision, reason=found.reason)


def built_in_view(name: StudyName, study: BuiltIn) -> BuiltInView:
    """Return a built-in experiment with its defaults."""
    request = ExperimentRequest(builtin=name).resolved()
    return BuiltInView(
        name=name, title=study.title, description=study.description, request=request, jobs=len(expand(request))
    )


def warning_views(found: Sequence[Confound]) -> list[WarningView]:
    """Convert confounds to their views."""
    return [WarningView(code=one.code, detail=one.detail, jobs=list(one.jobs), severity=one.severity) for one in found]


def sequential_view(experiment: Experiment, plan: SeedPlan | None, runs: Sequence[Run]) -> SequentialView | None:
    """Return the plan and the progress of sequential seeds, None without a plan."""
    if plan is None:
        return None
    seeds = max((run.seed + 1 for run in runs), default=plan.analyses[0])
    sizes = plan.analyses
    current = next((number for number, size in enumerate(sizes, 1) if size >= seeds), len(sizes))
    return SequentialView(
        interim_analyses=list(sizes),
        seeds=seeds,
        interim_analysis=current,
        deciding=experiment.deciding,
        procedure=PROCEDURE,
    )


def _fields(experiment: Experiment, counted: Mapping[Status, int]) -> dict[str, Any]:
    request = experiments.request_of(experiment)
    url = experiment_url(experiment.id)
    total = sum(counted.values())
    ended = sum(count for status, count in counted.items() if status in TERMINAL)
    return {
        "id": experiment.id,
        "name": experiment.name,
        "title": with_datasets(experiment.name or experiment.id, request.datasets),
        "status": _status(experiment, counted),
        "builtin": request.builtin,
        "budget": request.budget,
        "priority": experiment.priority,
        "rows": request.rows,
        "columns": request.columns,
        "grid": request.grid,
        "axes": grid_axes(request.grid),
        "jobs": total,
        "counts": dict(counted),
        "progress": ended / total if total else 0.0,
        "submitted_by": experiment.submitted_by,
        "created_at": experiment.created_at,
        "updated_at": experiment.updated_at,
        "links": {
            "self": url,
            "jobs": link(f"/v1/jobs?experiment={experiment.id}"),
            "results": f"{url}/results",
            "events": link(f"/v1/events?experiment={experiment.id}"),
        },
    }


def _status(experiment: Experiment, counted: Mapping[Status, int]) -> ExperimentStatus:
    present = {status for status, count in counted.items() if count}
    unfinished = present - TERMINAL
    if experiment.requested_state == experiments.CANCELLED:
        return ExperimentStatus.CANCELLING if unfinished else ExperimentStatus.CANCELLED
    if not unfinished and not experiment.deciding:
        return ExperimentStatus.FINISHED
    if experiment.requested_state == experiments.PAUSED:
        return ExperimentStatus.PAUSING if unfinished & ACTIVE else ExperimentStatus.PAUSED
    return ExperimentStatus.QUEUED if present == {Status.QUEUED} else ExperimentStatus.RUNNING


def _standing(runs: Sequence[Run], counted: Mapping[Status, int]) -> tuple[float, float | None]:
    """Return the fraction of steps that are done, and the seconds left at the speeds of the workers that train."""
    speeds = [
        Speed(run.spec["model"], run.spec["batch_size"], run.device, speed, evaluation)
        for run in runs
        if run.device is not None and (speed := _speed(run, run.spec["num_workers"])) is not None
        for evaluation in [_eval_speed(run, run.spec["num_workers"])]
    ]
    done: list[float] = []
    left_s: list[float | None] = []
    for run, spec in zip(runs, results.trainings(runs), strict=True):
        share = 1.0 if run.status in TERMINAL else 0.0
        if spec is not None and run.status not in TERMINAL:
            progress = run.progress or {}
            share = min(progress.get("step", 0) / spec.total_steps, 1.0)
            speed, evaluation = costs.expected_speed(spec, speeds) or (None, None)
            speed, evaluation = _speed(run) or speed, _eval_speed(run) or evaluation
            done_already = {"step": progress.get("step", 0), "evaluations": progress.get("evaluations", 0)}
            left_s.append(None if speed is None else costs.seconds_left(spec, speed, evaluation, **done_already))
        done.append(share)
    busy = sum(counted.get(status, 0) for status in ACTIVE)
    known = [seconds for seconds in left_s if seconds is not None]
    eta_s = max(sum(known) / busy, max(known, default=0.0)) if busy and len(known) == len(left_s) else None
    return (sum(done) / len(done) if done else 0.0), eta_s


def _speed(run: Run, workers: int = 1) -> float | None:
    speed = (run.progress or {}).get("images_per_s") or run.summary.get("images_per_s", {}).get("last")
    return speed / workers if speed and speed > 0 else None


def _eval_speed(run: Run, workers: int = 1) -> float | None:
    speed = (run.progress or {}).get("eval_images_per_s")
    return speed / workers if speed else None
