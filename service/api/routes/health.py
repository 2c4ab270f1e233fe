"""Liveness, readiness, and the metrics for Prometheus. None of them needs a token."""

import asyncio
import logging
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from service.api.context import Context, Services
from service.cluster_report import ClusterReport
from service.store import DatabaseError, jobs, leases

PATIENCE_S = 2.0
LEASES = 3
"""After this number of leases without a heartbeat the dispatcher counts as gone."""

router = APIRouter(tags=["health"])
log = logging.getLogger(__name__)


class Live(BaseModel):
    """The process is alive."""

    status: Literal["live"] = "live"


class Check(BaseModel):
    """The check of one requirement of the service."""

    ok: bool
    detail: str


class Readiness(BaseModel):
    """The readiness to run jobs. Reads and submissions need the database only."""

    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, Check]


@router.get("/livez", operation_id="live")
async def live() -> Live:
    """Liveness: the process answers. Checks nothing else."""
    return Live()


@router.get(
    "/readyz",
    operation_id="ready",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Unavailable; `checks` has the reason"}},
)
async def ready(context: Context) -> Readiness | Response:
    """Readiness: the database answers, and the heartbeat of the dispatcher is recent."""
    readiness = await _readiness(context)
    if readiness.status == "unavailable":
        return JSONResponse(readiness.model_dump(), status_code=503)
    return readiness


async def _readiness(context: Services) -> Readiness:
    try:
        async with asyncio.timeout(PATIENCE_S), context.database.read() as session:
            await jobs.probe(session)
            beat = await leases.heartbeat(session, "dispatcher", context.watch)
    except (DatabaseError, OSError, TimeoutError) as error:
        log.warning("The database does not answer", exc_info=error)
        database = Check(ok=False, detail=f"The database does not answer ({type(error).__name__}).")
        dispatcher = Check(ok=False, detail="Unknown: its heartbeat is in the database.")
        return Readiness(status="unavailable", checks={"database": database, "dispatcher": dispatcher})
    database = Check(ok=True, detail="The database answers.")
    status: Literal["ready", "degraded", "unavailable"] = "unavailable"
    if beat is None:
        dispatcher = Check(ok=False, detail="No dispatcher has used this database yet.")
    else:
        heartbeat = f"Its last heartbeat was {beat.age_s:.1f} s ago"
        report = ClusterReport.read(beat.lease.report)
        ray = report.ray.status if report else "not reported"
        if beat.age_s > LEASES * context.settings.dispatcher_lease_s:
            dispatcher = Check(ok=False, detail=f"{heartbeat}: jobs stay queued until a dispatcher runs.")
        elif not beat.alive:
            status, dispatcher = "degraded", Check(ok=False, detail=f"{heartbeat}, and its lease has expired.")
        elif ray != "connected":
            status, dispatcher = "degraded", Check(ok=True, detail=f"{heartbeat}, but Ray is {ray}.")
        else:
            status, dispatcher = "ready", Check(ok=True, detail=f"{heartbeat}.")
    return Readiness(status=status, checks={"database": database, "dispatcher": dispatcher})


@router.get(
    "/metrics",
    operation_id="scrape",
    response_class=Response,
    responses={200: {"description": "Prometheus's text format", "content": {"text/plain": {}}}},
)
async def scrape(context: Context) -> Response:
    """Metrics of the whole service from the database, and of the requests and streams of this process."""
    telemetry = context.telemetry
    telemetry.sse_clients.set(len(context.tailer))
    try:
        async with asyncio.timeout(PATIENCE_S), context.database.read() as session:
            await telemetry.refresh(session, context.watch)
    except (DatabaseError, OSError, TimeoutError):
        log.exception("The database does not answer")
        telemetry.database_is_down()
    return Response(telemetry.render(), media_type=CONTENT_TYPE_LATEST)
