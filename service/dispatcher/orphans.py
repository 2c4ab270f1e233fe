"""Checkpoints in the artifact store without a row in the database.

The files of a checkpoint are stored before its row, and removed after it. A crash or a power cut in between leaves
files without a row. They are removed and not adopted: metrics up to their step are missing as well.
"""

import asyncio
import logging
from collections.abc import Sequence

from service.artifacts import ArtifactStore
from service.store import Database, attempts, checkpoints, jobs

JOBS_AT_ONCE = 500
logger = logging.getLogger(__name__)


def checkpoint_id(attempt_id: str, step: int) -> str:
    """The id of the checkpoint that an attempt takes at a step: a retry stores the same checkpoint again."""
    return f"{_ids_of(attempt_id)}{step:09}"


async def remove_orphans(database: Database, artifacts: ArtifactStore) -> None:
    """Remove the files of deleted jobs, and checkpoints without a row except those of attempts that run now.

    If the artifact store does not answer, this is logged, and they remain until a dispatcher starts again.
    """
    try:
        stored = await asyncio.to_thread(artifacts.list_jobs)
        for start in range(0, len(stored), JOBS_AT_ONCE):
            await _remove(database, artifacts, stored[start : start + JOBS_AT_ONCE])
    except OSError as error:
        logger.warning("files without a row are not removed: %s", error)


async def _remove(database: Database, artifacts: ArtifactStore, job_ids: Sequence[str]) -> None:
    async with database.read() as session:
        existing = await jobs.with_artifacts(session, job_ids)
        kept = await checkpoints.ids_of_jobs(session, job_ids)
        running = tuple(_ids_of(attempt.id) for _, attempt in await attempts.active(session))
    for job_id in job_ids:
        if job_id in existing:
            await asyncio.to_thread(artifacts.keep_only, job_id, lambda id_: id_ in kept or id_.startswith(running))
        else:
            await asyncio.to_thread(artifacts.delete_job, job_id)


async def remove_orphans_of(database: Database, artifacts: ArtifactStore, job_id: str, attempt_id: str) -> None:
    """Remove the checkpoints without a row of an attempt that has ended. An error of the artifact store is logged."""
    try:
        async with database.read() as session:
            kept = await checkpoints.ids_of_jobs(session, [job_id])
        of_it = _ids_of(attempt_id)
        await asyncio.to_thread(artifacts.keep_only, job_id, lambda id_: id_ in kept or not id_.startswith(of_it))
    except OSError as error:
        logger.warning("files without a row are not removed: %s", error, extra={"job": job_id, "attempt": attempt_id})


def _ids_of(attempt_id: str) -> str:
    """What the ids of the checkpoints of an attempt begin with."""
    return f"checkpoint_{attempt_id.removeprefix('attempt_')}"
