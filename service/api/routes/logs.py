"""The log of a job."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from service.api.context import Context, JobId
from service.api.filters import Text
from service.api.http.problems import describe
from service.store import events, jobs
from worker.events import LogLevel

router = APIRouter(tags=["logs"])


class LogLine(BaseModel):
    """One line of a log."""

    id: int
    time: datetime
    level: LogLevel
    message: str
    attempt: str | None


class LogPage(BaseModel):
    """Lines, oldest first."""

    data: list[LogLine]
    next_cursor: str | None = Field(description="pass it as `after`; null: no further lines yet")


class LogsQuery(BaseModel):
    """The lines to select, and their number."""

    model_config = ConfigDict(extra="forbid")

    after: int = Field(default=0, ge=0, lt=2**63, description="only lines after this id")
    level: list[LogLevel] = Field(default_factory=list)
    search: Text | None = Field(default=None, description="part of the message, in any case")
    limit: int = Field(default=200, ge=1, le=1000, description="lines per page")


@router.get("/v1/jobs/{job_id}/logs", operation_id="list_logs", responses=describe(401, 404, 422))
async def find(context: Context, job_id: JobId, query: Annotated[LogsQuery, Query()]) -> LogPage:
    """The log lines of all attempts of a job."""
    async with context.database.read() as session:
        await jobs.get(session, job_id)
        found = await events.logs(
            session, job_id, after_id=query.after, levels=query.level, search=query.search, limit=query.limit
        )
    data = [
        LogLine(
            id=event.id,
            time=event.time,
            level=event.data["level"],
            message=event.data["message"],
            attempt=event.attempt_id,
        )
        for event in found
    ]
    return LogPage(data=data, next_cursor=str(data[-1].id) if len(data) == query.limit else None)
