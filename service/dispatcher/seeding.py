"""Sequential seeds: once the jobs of a look have ended, the cells that are undecided get those of the next."""

import asyncio
import logging
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service.dispatcher.leadership import Leadership
from service.errors import ServiceError
from service.experiments import axes, results
from service.experiments.request import PlannedJob, expand
from service.experiments.statistics import undecided_cells
from service.jobs import TERMINAL
from service.store import Database, experiments
from service.store import results as stored
from service.store.listing import JobFilter

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
"""How often it is looked whether an experiment is at a look."""


async def keep(database: Database, leadership: Leadership, interval_s: float = INTERVAL_S) -> None:
    """Decide for ever. Raises `LeadershipLost`."""
    given_up: set[str] = set()
    while True:
        await asyncio.sleep(interval_s)
        try:
            async with database.read() as session:
                waiting = await experiments.due_for_interim_analysis(session)
            for experiment_id in waiting:
                if experiment_id in given_up:
                    continue
                try:
                    async with database.write() as session:
                        await leadership.assert_held(session)
                        added = await decide(session, experiment_id)
                except (ServiceError, ValueError, AssertionError):
                    # What stands in one experiment's way, as a spec of another release, is no reason to stop the rest.
                    logger.exception("no seeds can be decided", extra={"experiment": experiment_id})
                    given_up.add(experiment_id)
                else:
                    logger.info("seeds decided", extra={"experiment": experiment_id, "jobs": len(added)})
        except (SQLAlchemyError, OSError) as error:
            logger.warning("no seeds decided, will try again: %s", error)


async def decide(session: AsyncSession, experiment_id: str) -> Sequence[str]:
    """Queue the seeds of the next look, in the cells that need them. Returns the ids of the new jobs.

    Nothing happens while a job of the experiment has not ended: to look earlier would be to peek. The decision is a
    function of the jobs, and the database takes one job a cell and seed, so it is made once however often it is asked.
    """
    experiment = await experiments.get(session, experiment_id, lock=True)
    if not experiment.deciding or experiment.requested_state is not None:
        return []
    request = experiments.request_of(experiment)
    plan = results.seed_plan(request)
    assert plan is not None, f"{experiment_id} has no sequential seeds"
    runs = await stored.runs(session, JobFilter(experiment=experiment_id))
    if any(run.status not in TERMINAL for run in runs):
        return []
    table = results.tabulate(runs, results.question_of(request))
    look = undecided_cells(table.observations, plan, cells=list(table.cells))
    added: Sequence[str] = []
    if look is not None:
        wanted = {(*wish.cell, seed) for wish in look.wanted for seed in wish.seeds}
        planned = expand(request, plan.seeds[: look.seeds])
        chosen = [job for job in planned if _place(job, request.rows, request.columns) in wanted]
        added = await experiments.extend(session, experiment, request, chosen)
    experiment.deciding = bool(added)
    return added


def _place(job: PlannedJob, rows: str, columns: str) -> tuple[str, str, int]:
    spec = job.request.training.model_dump(mode="json")
    row, column = (axes.label(name, axes.read(spec, name)) for name in (rows, columns))
    return row, column, job.request.seed
