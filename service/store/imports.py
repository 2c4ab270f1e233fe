"""Imports in progress: the rows of an experiment are stored in slices, and hidden until all of them are there.

Each slice is a short transaction, for which other writers do not wait long. What an interrupted import has stored stays
hidden, and is removed by the next import of the experiment, or by `keep_clean`, which notices that no slices are added.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict
from service.store.database import Database, DatabaseError, lock_events
from service.store.identifiers import new_id
from service.store.tables import Import, Job

ABANDONED_S = 60.0
"""Seconds without a new slice after which an import counts as interrupted."""
JOBS_AT_ONCE = 20
"""The number of jobs that one transaction removes, with all their rows."""
VISIBLE = Job.id.not_in(select(Job.id).join(Import, Import.experiment_id == Job.experiment_id))
"""The condition that the experiment of a job is not being imported."""

log = logging.getLogger(__name__)


async def is_hidden(session: AsyncSession, job: Job) -> bool:
    """Return whether the experiment of a job is being imported."""
    return job.experiment_id is not None and await session.get(Import, job.experiment_id) is not None


async def begin(session: AsyncSession, experiment_id: str) -> str:
    """Hide the jobs of an experiment, in place of every earlier import of it. Returns the id of this import."""
    await lock_events(session)  # so that imports that begin at once take turns
    id_ = new_id("import")
    await session.merge(Import(experiment_id=experiment_id, id=id_, slices=0))
    await session.flush()
    return id_


@asynccontextmanager
async def slice_of(database: Database, experiment_id: str, id_: str) -> AsyncIterator[AsyncSession]:
    """Open a transaction for a slice. Raises `Conflict` if a later import of the experiment has begun."""
    async with database.write() as session:
        of_it = (Import.experiment_id == experiment_id, Import.id == id_)
        held = await session.scalar(update(Import).where(*of_it).values(slices=Import.slices + 1).returning(Import.id))
        if held is None:
            raise Conflict(f"Another import of experiment {experiment_id} has begun, and this one was ended.")
        yield session


async def finish(session: AsyncSession, experiment_id: str) -> None:
    """Make the jobs visible when this transaction is committed."""
    await session.execute(delete(Import).where(Import.experiment_id == experiment_id))


async def remove_rows(database: Database, experiment_id: str, id_: str) -> None:
    """Remove the hidden jobs, in slices."""
    some = select(Job.id).where(Job.experiment_id == experiment_id).limit(JOBS_AT_ONCE)
    left = True
    while left:
        async with slice_of(database, experiment_id, id_) as session:
            found = (await session.scalars(some)).all()
            await session.execute(delete(Job).where(Job.id.in_(found)))
            left = bool(found)


async def discard(database: Database, experiment_id: str, id_: str) -> None:
    """End an import that failed, and remove what it has stored."""
    await remove_rows(database, experiment_id, id_)
    async with slice_of(database, experiment_id, id_) as session:
        await finish(session, experiment_id)


async def keep_clean(database: Database) -> None:
    """Discard interrupted imports, forever."""
    seen: frozenset[tuple[str, str, int]] = frozenset()
    while True:
        try:
            seen = await discard_abandoned(database, seen)
        except (DatabaseError, OSError, Conflict) as error:
            log.warning("interrupted imports are not removed: %s", error)
        await asyncio.sleep(ABANDONED_S)


async def discard_abandoned(
    database: Database, seen: frozenset[tuple[str, str, int]]
) -> frozenset[tuple[str, str, int]]:
    """Discard the imports that have not changed since the previous call, and return the state of the others.

    Comparing states needs no clock that is shared with the processes that import.
    """
    async with database.read() as session:
        query = select(Import.experiment_id, Import.id, Import.slices)
        found = frozenset((experiment_id, id_, slices) for experiment_id, id_, slices in await session.execute(query))
    for experiment_id, _, _ in found & seen:
        log.warning("an import was interrupted: what it stored is removed", extra={"experiment": experiment_id})
        async with database.write() as session:
            taken_over = await begin(session, experiment_id)
        await discard(database, experiment_id, taken_over)
    return found - seen
