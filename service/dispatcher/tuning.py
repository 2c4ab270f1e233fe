"""Tuned experiments: when the search of a row or a cell has ended, its jobs with the values that won are queued."""

from collections.abc import Sequence

from service.errors import ServiceError
from service.experiments.request import ExperimentRequest
from service.experiments.search import search_of
from service.store import Session, experiments
from service.store import results as stored
from service.store.listing import JobFilter
from service.store.tables import Experiment


async def due(session: Session) -> list[str]:
    """Return the experiments with a part whose search has ended and whose tuned jobs are not queued, oldest first."""
    found = []
    for experiment in await experiments.searching(session):
        try:
            search = search_of(experiments.request_of(experiment))
        except (ServiceError, ValueError, AssertionError):
            # Of another release: `decide` fails in the same way, and is not asked again.
            found.append(experiment.id)
            continue
        unfinished, present = await experiments.cells(session, experiment.id)
        waiting = [part for part in search.ended(unfinished) if not search.tuned_cells(part) & present]
        if any(search.has_own_jobs(part) for part in waiting) or search.ended(unfinished) == search.parts:
            found.append(experiment.id)
    return found


async def decide(session: Session, experiment: Experiment, request: ExperimentRequest) -> Sequence[str]:
    """Queue the tuned jobs of every part whose search has ended.

    The choice is a function of the jobs, values that jobs were trained with are kept, and the database accepts one job
    for each cell and seed: a repeated decision adds nothing.

    Args:
        session: A session in which the experiment is locked.
        experiment: The experiment.
        request: Its request, with `tune`.

    Returns:
        The ids of the new jobs.
    """
    search = search_of(request)
    choices = search.choices(await stored.runs(session, JobFilter(experiment=experiment.id)))
    planned = [job for choice in choices for job in search.tuned_jobs(choice)]
    added = await experiments.extend(session, experiment, request, planned)
    experiment.deciding = not all(choice.has_ended for choice in choices)
    return added
