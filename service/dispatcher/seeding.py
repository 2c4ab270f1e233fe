"""Jobs that depend on others: the seeds of the next interim analysis, and the tuned jobs after a search."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from service.dispatcher import tuning
from service.dispatcher.leadership import Leadership
from service.errors import ServiceError
from service.experiments import axes, results
from service.experiments.request import PlannedJob, expand
from service.experiments.statistics import undecided_cells
from service.jobs import TERMINAL
from service.store import Database, DatabaseError, Session, experiments
from service.store import results as stored
from service.store.listing import JobFilter

logger = logging.getLogger(__name__)

INTERVAL_S = 10.0
"""Longest pause between two checks for experiments of which something is to be decided."""


async def keep(
    database: Database, leadership: Leadership, attempt_ended: asyncio.Event, interval_s: float = INTERVAL_S
) -> None:
    """Decide what is due, forever: interim analyses, and what a search has found.

    Args:
        database: The database.
        leadership: The leadership of this dispatcher.
        attempt_ended: Set when an attempt has ended, with which a decision may be due.
        interval_s: Seconds after which they are checked anyway: a request to the API can make one due, too.

    Raises:
        LeadershipLost: If another dispatcher is active.
    """
    given_up: set[str] = set()
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(interval_s):
                await attempt_ended.wait()
        attempt_ended.clear()
        try:
            async with database.read() as session:
                due = [*await experiments.due_for_interim_analysis(session), *await tuning.due(session)]
            for experiment_id in dict.fromkeys(due):
                if experiment_id in given_up:
                    continue
                try:
                    async with leadership.write() as session:
                        added = await decide(session, experiment_id)
                except (ServiceError, ValueError, AssertionError):
                    # One experiment that cannot be analyzed, such as one of another release, must not stop the others.
                    logger.exception("experiment not continued", extra={"experiment": experiment_id})
                    given_up.add(experiment_id)
                else:
                    logger.info("experiment continued", extra={"experiment": experiment_id, "jobs": len(added)})
        except (DatabaseError, OSError) as error:
            logger.warning("no experiment was continued, will try again: %s", error)


async def decide(session: Session, experiment_id: str) -> Sequence[str]:
    """Queue the jobs that follow from those that have ended.

    With a search these are the tuned jobs, see `tuning.decide`; with sequential seeds those of the next interim
    analysis, in the cells that need them. Nothing is analysed while a job of the experiment has not ended, because an
    unplanned analysis would invalidate the error rates. The decision is a function of the jobs, and the database
    accepts one job for each cell and seed, so a repeated decision adds nothing.

    Returns:
        The ids of the new jobs.
    """
    experiment = await experiments.get(session, experiment_id, lock=True)
    if not experiment.deciding or experiment.requested_state is not None:
        return []
    request = experiments.request_of(experiment)
    if request.tune is not None:
        return await tuning.decide(session, experiment, request)
    plan = results.seed_plan(request)
    assert plan is not None, f"{experiment_id} has no sequential seeds"
    runs = await stored.runs(session, JobFilter(experiment=experiment_id))
    if any(run.status not in TERMINAL for run in runs):
        return []
    table = results.tabulate(runs, results.question_of(request))
    following = undecided_cells(table.observations, plan, cells=list(table.cells))
    added: Sequence[str] = []
    if following is not None:
        wanted = {(*undecided.cell, seed) for undecided in following.wanted for seed in undecided.seeds}
        planned = expand(request, plan.seeds[: following.seeds])
        chosen = [job for job in planned if _coordinates(job, request.rows, request.columns) in wanted]
        added = await experiments.extend(session, experiment, request, chosen)
    experiment.deciding = bool(added)
    return added


def _coordinates(job: PlannedJob, rows: str, columns: str) -> tuple[str, str, int]:
    """The labels of a job's cell, and its seed."""
    spec = job.request.training.model_dump(mode="json")
    row, column = (axes.label(name, axes.read(spec, name)) for name in (rows, columns))
    return row, column, job.request.seed
