"""Queries of experiments, and their changes, each with all of its jobs in one transaction."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict, FieldError, InvalidFields, NotFound
from service.experiments.request import ExperimentRequest, PlannedJob
from service.experiments.tune import LABEL as STAGE_LABEL
from service.jobs import ACTIVE, TERMINAL, Status
from service.store import changes, checkpoints, jobs
from service.store.cursors import read_cursor, write_cursor
from service.store.database import lock_events
from service.store.identifiers import has_part, new_id
from service.store.notifications import Channel, notify
from service.store.ordering import Order
from service.store.submitters import NOBODY, Submitter
from service.store.tables import Experiment, Idempotency, Job

PAUSED, CANCELLED = "paused", "cancelled"
ORDER = Order.parse("-created_at")


async def create(
    session: AsyncSession, request: ExperimentRequest, planned: Sequence[PlannedJob], *, by: Submitter = NOBODY
) -> Experiment:
    """Store a resolved request, and queue its jobs."""
    now = datetime.now(UTC)
    experiment = Experiment(
        id=new_id("experiment"),
        name=request.name,
        request=request.model_dump(mode="json", exclude_unset=True),
        priority=request.priority,
        submitted_by=by.name,
        requested_state=None,
        deciding=request.seeds is not None or request.tune is not None,
        created_at=now,
        updated_at=now,
    )
    session.add(experiment)
    await jobs.create_all(session, [(job.cell, job.request) for job in planned], experiment.id, by=by)
    return experiment


async def get(session: AsyncSession, experiment_id: str, *, lock: bool = False) -> Experiment:
    """Return one experiment; `lock` locks it until the transaction ends. Raises `NotFound`."""
    if lock:
        await lock_events(session)
    experiment = await session.get(Experiment, experiment_id, with_for_update=lock or None, populate_existing=lock)
    if experiment is None:
        raise NotFound("experiment", experiment_id)
    return experiment


async def page(
    session: AsyncSession,
    *,
    search: str | None = None,
    submitted_by: Sequence[str] = (),
    id: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> tuple[Sequence[Experiment], str | None]:
    """Return a page of experiments, newest first, and the cursor of the next or None. Raises `Unprocessable`."""
    query = select(Experiment).order_by(Experiment.created_at.desc(), Experiment.id.desc()).limit(limit + 1)
    if search:
        query = query.where(Experiment.name.icontains(search, autoescape=True))
    if id:
        query = query.where(has_part(Experiment.id, "experiment", id))
    if submitted_by:
        query = query.where(Experiment.submitted_by.in_(submitted_by))
    if cursor is not None:
        (value,), last = read_cursor(cursor, ORDER)
        tied = and_(Experiment.created_at == value, Experiment.id < last)
        query = query.where(or_(Experiment.created_at < value, tied))
    found = (await session.scalars(query)).all()
    if len(found) <= limit:
        return found, None
    return found[:limit], write_cursor(ORDER, [found[limit - 1].created_at], found[limit - 1].id)


async def counts(session: AsyncSession, experiment_ids: Sequence[str]) -> dict[str, dict[Status, int]]:
    """Return the number of jobs in each state, by experiment. A job that was retried does not count."""
    # A retry belongs to the experiment of the job that it repeats. Without this filter all jobs would be read.
    retry = select(Job.retry_of).where(Job.retry_of.is_not(None), Job.experiment_id.in_(experiment_ids))
    query = (
        select(Job.experiment_id, Job.status, func.count())
        .where(Job.experiment_id.in_(experiment_ids), Job.id.not_in(retry))
        .group_by(Job.experiment_id, Job.status)
    )
    counted: dict[str, dict[Status, int]] = defaultdict(dict)
    for experiment_id, status, count in await session.execute(query):
        assert experiment_id is not None
        counted[experiment_id][status] = count
    return counted


async def cancel(session: AsyncSession, experiment_id: str) -> Experiment:
    """Stop every job that has not ended, for good. Raises `NotFound`, or `Conflict` if all have ended otherwise."""
    experiment = await get(session, experiment_id, lock=True)
    if experiment.requested_state == CANCELLED:
        return experiment
    unfinished = await _in_state(session, experiment_id, frozenset(Status) - TERMINAL)
    if not unfinished and not experiment.deciding:
        raise Conflict(f"Experiment {experiment_id} has ended and cannot be cancelled.")
    held = [job for job in unfinished if job.status in ACTIVE and job.status is not Status.CANCELLING]
    waiting = [job for job in unfinished if job.status not in ACTIVE]
    await jobs.change_all(session, held, Status.CANCELLING, "requested")
    await jobs.change_all(session, waiting, Status.CANCELLED, "requested")
    _request_state(experiment, CANCELLED)
    experiment.deciding = False
    return experiment


async def pause(session: AsyncSession, experiment_id: str) -> Experiment:
    """Stop every job at a checkpoint until it is resumed. Raises `NotFound`, or `Conflict` if it has ended."""
    experiment = await get(session, experiment_id, lock=True)
    if experiment.requested_state == CANCELLED:
        raise Conflict(f"Experiment {experiment_id} has been cancelled and cannot be paused.")
    unfinished = await _in_state(session, experiment_id, frozenset(Status) - TERMINAL)
    if not unfinished and not experiment.deciding:
        raise Conflict(f"Experiment {experiment_id} has ended and cannot be paused.")
    held = [job for job in unfinished if job.status in (Status.STARTING, Status.RUNNING)]
    waiting = [job for job in unfinished if job.status is Status.QUEUED]
    await jobs.change_all(session, held, Status.PAUSING, "requested")
    await jobs.change_all(session, waiting, Status.PAUSED, "requested")
    _request_state(experiment, PAUSED)
    return experiment


async def resume(session: AsyncSession, experiment_id: str) -> Experiment:
    """Queue every paused job again. Raises `NotFound`, or `Conflict` if it has been cancelled or is still pausing."""
    experiment = await get(session, experiment_id, lock=True)
    if experiment.requested_state == CANCELLED:
        raise Conflict(f"Experiment {experiment_id} has been cancelled and cannot be resumed.")
    # A job that is pausing would become paused after the experiment was resumed, and stay so.
    if experiment.requested_state == PAUSED and (
        pausing := await _in_state(session, experiment_id, frozenset({Status.PAUSING}))
    ):
        raise Conflict(
            f"Experiment {experiment_id} is still pausing ({len(pausing)} of its jobs): resume it once it is paused."
        )
    paused = await _in_state(session, experiment_id, frozenset({Status.PAUSED}))
    for job in paused:
        job.not_before = None
    await jobs.change_all(session, paused, Status.QUEUED, "resumed")
    _request_state(experiment, None)
    return experiment


async def rename(session: AsyncSession, experiment: Experiment, name: str) -> None:
    """Rename an experiment."""
    experiment.name = name
    experiment.request = {**experiment.request, "name": name}
    experiment.updated_at = datetime.now(UTC)


async def label(session: AsyncSession, experiment: Experiment, wanted: Mapping[str, str | None]) -> None:
    """Set labels of all jobs of an experiment, also of those that are added later, and remove those that are None.

    `experiment` must have been read with `lock`. Raises `InvalidFields` for too many labels, or one that is reserved.
    """
    if STAGE_LABEL in wanted:
        detail = f"{STAGE_LABEL} is the label of the stage of a job: give it another name"
        raise InvalidFields([FieldError(("labels", STAGE_LABEL), detail)])
    await changes.label_all(session, await _in_state(session, experiment.id, frozenset(Status)), wanted)
    base = experiment.request.get("base", {})
    labels = {key: value for key, value in {**base.get("labels", {}), **wanted}.items() if value is not None}
    experiment.request = {**experiment.request, "base": {**base, "labels": labels}}
    experiment.updated_at = datetime.now(UTC)


async def prioritize(session: AsyncSession, experiment: Experiment, priority: int) -> None:
    """Change the priority of an experiment and of all its jobs."""
    experiment.priority = priority
    experiment.request = {**experiment.request, "priority": priority}
    experiment.updated_at = datetime.now(UTC)
    await session.execute(update(Job).where(Job.experiment_id == experiment.id).values(priority=priority))
    await notify(session, Channel.QUEUE)


async def extend(
    session: AsyncSession,
    experiment: Experiment,
    request: ExperimentRequest,
    planned: Sequence[PlannedJob],
    *,
    by: Submitter | None = None,
) -> Sequence[str]:
    """Queue the planned jobs whose cell and seed the experiment does not have yet. Returns their ids.

    The dispatcher adds the tuned jobs of a tuned experiment. `by` is by default who submitted the experiment.

    `experiment` must have been read with `lock`. Raises `Conflict` where it has been cancelled.
    """
    if experiment.requested_state == CANCELLED:
        raise Conflict(f"Experiment {experiment.id} has been cancelled: nothing can be added to it.")
    known = set(await seeds_of_cells(session, experiment.id))
    new = [(job.cell, job.request) for job in planned if (job.cell, job.request.seed) not in known]
    status: Literal[Status.QUEUED, Status.PAUSED] = (
        Status.PAUSED if experiment.requested_state == PAUSED else Status.QUEUED
    )
    by = Submitter(experiment.submitted_by) if by is None else by
    added = await jobs.create_all(session, new, experiment.id, status, by=by)
    experiment.request = request.model_dump(mode="json", exclude_unset=True)
    experiment.deciding = experiment.deciding or request.tune is not None
    experiment.updated_at = datetime.now(UTC)
    return added


async def seeds_of_cells(session: AsyncSession, experiment_id: str) -> Sequence[tuple[str, int]]:
    """Return all pairs of cell and seed for which the experiment has a job."""
    query = select(Job.cell, Job.seed).where(Job.experiment_id == experiment_id, Job.retry_of.is_(None))
    return [(cell, seed) for cell, seed in await session.execute(query) if cell is not None]


_UNFINISHED = select(Job.id).where(Job.experiment_id == Experiment.id, Job.status.not_in(TERMINAL))
_DUE = (
    select(Experiment.id)
    .where(Experiment.deciding, Experiment.requested_state.is_(None), ~_UNFINISHED.exists())
    .order_by(Experiment.created_at, Experiment.id)
)
"""Built once: building it takes longer than running it."""


async def due_for_interim_analysis(session: AsyncSession) -> Sequence[str]:
    """The experiments that wait for a decision and whose jobs have all ended, oldest first."""
    return (await session.scalars(_DUE)).all()


async def searching(session: AsyncSession) -> Sequence[Experiment]:
    """The tuned experiments whose search has not ended, and that are neither paused nor cancelled, oldest first."""
    query = select(Experiment).where(Experiment.deciding, Experiment.requested_state.is_(None))
    found = await session.scalars(query.order_by(Experiment.created_at, Experiment.id))
    return [experiment for experiment in found if experiment.request.get("tune") is not None]


async def cells(session: AsyncSession, experiment_id: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the cells with jobs that have not ended, and all cells with jobs.

    A job that was retried does not count.
    """
    retry = select(Job.retry_of).where(Job.retry_of.is_not(None), Job.experiment_id == experiment_id)
    query = select(Job.cell, Job.status).where(Job.experiment_id == experiment_id, Job.id.not_in(retry)).distinct()
    found = [(cell, status) for cell, status in await session.execute(query) if cell is not None]
    unfinished = frozenset(cell for cell, status in found if status not in TERMINAL)
    return unfinished, frozenset(cell for cell, _ in found)


async def delete(session: AsyncSession, experiment_id: str) -> Sequence[str]:
    """Delete an experiment whose jobs have all ended. Returns the ids of its jobs. Raises `NotFound` or `Conflict`."""
    experiment = await get(session, experiment_id, lock=True)
    counted = (await counts(session, [experiment_id])).get(experiment_id, {})
    if unfinished := sum(count for status, count in counted.items() if status not in TERMINAL):
        raise Conflict(f"Experiment {experiment_id} has {unfinished} jobs that have not ended: cancel it first.")
    await checkpoints.require_unneeded(session, Job.experiment_id == experiment_id)
    of_it = select(Job.id).where(Job.experiment_id == experiment_id)
    job_ids = (await session.scalars(of_it)).all()
    await session.execute(
        delete_from(Idempotency).where(or_(Idempotency.answer == experiment_id, Idempotency.answer.in_(of_it)))
    )
    await checkpoints.remove_of_jobs(session, of_it)
    await session.execute(delete_from(Job).where(Job.experiment_id == experiment_id))
    await session.delete(experiment)
    return job_ids


async def _in_state(session: AsyncSession, experiment_id: str, states: frozenset[Status]) -> Sequence[Job]:
    query = (
        select(Job)
        .where(Job.experiment_id == experiment_id, Job.status.in_(states))
        .order_by(Job.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return (await session.scalars(query)).all()


def _request_state(experiment: Experiment, state: str | None) -> None:
    experiment.requested_state = state
    experiment.updated_at = datetime.now(UTC)


def request_of(experiment: Experiment) -> ExperimentRequest:
    """Return the request of an experiment, with all values that were added to its grid."""
    stored: dict[str, Any] = experiment.request
    return ExperimentRequest.model_validate(stored)
