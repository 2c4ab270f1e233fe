"""Retention: removes checkpoints of jobs that have ended, as RETENTION of the settings says."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from service.artifacts import ArtifactStore
from service.dispatcher.leadership import Leadership
from service.settings import Settings
from service.store import Database, DatabaseError, retention

INTERVAL_S = 60.0
"""Pause between two checks for checkpoints to remove."""

logger = logging.getLogger(__name__)


async def keep(
    settings: Settings,
    database: Database,
    artifacts: ArtifactStore,
    leadership: Leadership,
    interval_s: float = INTERVAL_S,
) -> None:
    """Remove what is due, forever; return at once if all checkpoints are kept.

    Raises:
        LeadershipLost: If another dispatcher is active.
    """
    if settings.retention == "all":
        return
    settled: set[str] = set()
    while True:
        try:
            await remove_due(settings, database, artifacts, leadership, settled)
        except (DatabaseError, OSError) as error:
            logger.warning("checkpoints are not removed, will try again: %s", error)
        await asyncio.sleep(interval_s)


async def remove_due(
    settings: Settings, database: Database, artifacts: ArtifactStore, leadership: Leadership, settled: set[str]
) -> None:
    """Remove what is due once: the rows of a job first, then their files.

    Args:
        settings: The rule, and the time after which it applies.
        database: The database.
        artifacts: The artifact store.
        leadership: The leadership of this dispatcher.
        settled: The ids of jobs that have no superfluous checkpoints, which a job that has ended does not get any more;
            it is updated.
    """
    rule = settings.retention
    if rule == "all":
        return
    now = datetime.now(UTC)
    async with database.read() as session:
        found = await retention.candidates(session, rule, now - timedelta(days=settings.retention_days))
    for job_id in found:
        if job_id in settled:
            continue
        async with database.read() as session:
            superfluous = await retention.superfluous(session, job_id, rule)
        if superfluous.removable:
            await _remove(job_id, rule, now, artifacts, leadership)
        if not superfluous.needed:
            settled.add(job_id)


async def _remove(
    job_id: str, rule: retention.Rule, now: datetime, artifacts: ArtifactStore, leadership: Leadership
) -> None:
    async with leadership.write() as session:
        removed = await retention.remove(session, job_id, rule, now)
    logger.info("checkpoints removed: RETENTION is %s", rule, extra={"job": job_id, "checkpoints": len(removed)})
    # Files that remain after a crash here are removed when a dispatcher starts.
    for id_ in removed:
        await asyncio.to_thread(artifacts.delete_checkpoint, job_id, id_)
