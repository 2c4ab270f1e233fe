"""Counters for Prometheus, stored so that they survive restarts of every process and the deletion of jobs.

A writer must hold the lock on the events, so that writers do not wait for each other's rows.
"""

from collections.abc import Mapping
from itertools import accumulate

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from service.store.database import lock_events
from service.store.tables import Counter

ATTEMPTS_ENDED = "attempts_ended"
"""The number of attempts that ended, by outcome."""
DISPATCH_LATENCY = "dispatch_latency"
"""Seconds from the queue to the first step: observations per bucket, and their sum."""
CHECKPOINT_BYTES = "checkpoint_bytes"
"""Bytes of the checkpoints that were written, and of those that were removed."""
WRITTEN, REMOVED = "written", "removed"
LATENCY_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0)
_SUM = "sum"
_BEYOND = "+Inf"


async def increase(session: AsyncSession, name: str, amounts: Mapping[str, float]) -> None:
    """Add amounts to the counters `name`, by label."""
    await lock_events(session)
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    rows = [{"name": name, "label": label, "value": amount} for label, amount in amounts.items()]
    statement = insert(Counter).values(rows)
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=["name", "label"], set_={"value": Counter.value + statement.excluded.value}
        )
    )


async def observe_latency(session: AsyncSession, seconds: float) -> None:
    """Count one dispatch latency in its bucket."""
    bucket = next((_label(bound) for bound in LATENCY_BOUNDS_S if seconds <= bound), _BEYOND)
    await increase(session, DISPATCH_LATENCY, {bucket: 1, _SUM: seconds})


async def read(session: AsyncSession, name: str) -> dict[str, float]:
    """Return the counters `name` by label."""
    found = await session.scalars(select(Counter).where(Counter.name == name))
    return {counter.label: counter.value for counter in found}


async def latency(session: AsyncSession) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative histogram: the count within each upper bound, and the sum of all seconds."""
    counted = await read(session, DISPATCH_LATENCY)
    bounds = [*map(_label, LATENCY_BOUNDS_S), _BEYOND]
    within = accumulate(counted.get(bound, 0.0) for bound in bounds)
    return list(zip(bounds, within, strict=True)), counted.get(_SUM, 0.0)


def _label(bound: float) -> str:
    return repr(bound)
