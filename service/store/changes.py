"""What people change of jobs at any time: name, notes, labels and priority."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete as delete_from
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import FieldError, InvalidFields
from service.experiments.titles import job_title
from service.jobs import MOST_LABELS, JobChange
from service.store import events, jobs
from service.store.notifications import Channel, notify
from service.store.tables import Job, JobLabel


async def change(session: AsyncSession, job_id: str, wanted: JobChange) -> Job:
    """Change the name, notes, priority or labels of a job. Raises `NotFound`, or `InvalidFields` for too many labels.

    Adds an event, unless nothing changed.
    """
    job = await jobs.get(session, job_id, lock=True)
    before = (await jobs.labels(session, [job_id])).get(job_id, {})
    after = _labelled(before, wanted.labels)
    given = wanted.model_fields_set
    name = wanted.name if "name" in given else job.name
    notes = wanted.notes if "notes" in given else job.notes
    priority = wanted.priority if "priority" in given else job.priority
    if (name, notes, priority, after) == (job.name, job.notes, job.priority, before):
        return job
    if priority != job.priority:
        await notify(session, Channel.QUEUE)
    job.name, job.notes, job.priority, job.updated_at = name, notes, priority, datetime.now(UTC)
    if after != before:
        await session.execute(delete_from(JobLabel).where(JobLabel.job_id == job_id))
        session.add_all(JobLabel(job_id=job_id, key=key, value=value) for key, value in after.items())
    await events.add(session, job_id, "changed", _changed(job, after), job.updated_at)
    return job


async def label_all(session: AsyncSession, found: Sequence[Job], wanted: Mapping[str, str | None]) -> None:
    """Set labels of many jobs, and remove those that are None. Raises `InvalidFields` for too many labels.

    Jobs that have them already get no event. `lock_events` must have been called.
    """
    now = datetime.now(UTC)
    before = await jobs.labels(session, [job.id for job in found])
    after = {job.id: _labelled(before.get(job.id, {}), wanted) for job in found}
    changed = [job for job in found if after[job.id] != before.get(job.id, {})]
    ids = [job.id for job in changed]
    await session.execute(delete_from(JobLabel).where(JobLabel.job_id.in_(ids), JobLabel.key.in_(wanted)))
    rows = [
        {"job_id": id_, "key": key, "value": value} for id_ in ids for key, value in wanted.items() if value is not None
    ]
    if rows:
        await session.execute(insert(JobLabel), rows)
    for job in changed:
        job.updated_at = now
    event = {"type": "changed", "time": now, "attempt_id": None}
    await events.add_all(
        session, [{**event, "job_id": job.id, "data": _changed(job, after[job.id])} for job in changed]
    )


def _labelled(before: Mapping[str, str], wanted: Mapping[str, str | None]) -> dict[str, str]:
    after = {key: value for key, value in {**before, **wanted}.items() if value is not None}
    if len(after) > MOST_LABELS:
        detail = f"labels: the job would have {len(after)} of them; the maximum is {MOST_LABELS}. Set some to null."
        raise InvalidFields([FieldError(("labels",), detail)])
    return after


def _changed(job: Job, labels: Mapping[str, str]) -> dict[str, Any]:
    """The data of the event that a job was changed."""
    title = job_title(job.name, job.spec)
    return {"name": job.name, "title": title, "notes": job.notes, "labels": labels, "priority": job.priority}
