"""Notifications: a transaction wakes those who wait for what it changes, once it is committed.

PostgreSQL delivers them itself, by NOTIFY and LISTEN; for SQLite see `service.store.sockets`. A notification can be
lost, for example while a listener connects again, or behind a connection pooler that shares sessions between
transactions. Every listener therefore also polls, and a lost notification costs no more than one interval of its polls.
"""

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

if TYPE_CHECKING:
    import psycopg

RECONNECT_S = 1.0
"""Pause before a listener connects again."""
KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""A listener only reads: without keepalives it would not notice for hours that its server is gone."""
_CHANNELS = "normlab_notifications"

logger = logging.getLogger(__name__)


class Channel(StrEnum):
    """What notifications are about."""

    QUEUE = "normlab_queue"
    """The dispatcher has something to do: start a job, pause or cancel it, or choose the next one anew."""
    EVENTS = "normlab_events"
    """Events, or the progress of a job, were written."""


async def notify(session: AsyncSession, channel: Channel) -> None:
    """Notify the listeners of a channel when this transaction is committed, however often it is called in it."""
    channels = session.info.setdefault(_CHANNELS, set())
    if channel not in channels:
        channels.add(channel)
        if session.get_bind().dialect.name == "postgresql":
            await session.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})


def notified_by(session: AsyncSession) -> set[Channel]:
    """The channels that the transaction of a session notifies."""
    channels: set[Channel] = session.info.get(_CHANNELS, set())
    return channels


async def follow(arguments: dict[str, Any], channel: Channel, notified: Callable[[], None]) -> None:
    """Listen on PostgreSQL forever, and connect again whenever the connection is lost.

    Args:
        arguments: The arguments of `psycopg.connect`.
        channel: The channel.
        notified: Called for notifications, and after every connection, because some may have been missed before it.
    """
    # It is needed for PostgreSQL only, and takes long to import.
    import psycopg

    interrupted = False
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(**KEEPALIVE | arguments, autocommit=True) as connection:
                await connection.execute(f"LISTEN {channel}")
                interrupted = False
                notified()
                await _read(connection, notified)
        except (psycopg.Error, OSError) as error:
            if not interrupted:
                logger.warning("notifications of the database are interrupted, only polls: %s", error)
            interrupted = True
        await asyncio.sleep(RECONNECT_S)


async def _read(connection: "psycopg.AsyncConnection[Any]", notified: Callable[[], None]) -> None:
    """Pass on notifications until the connection is lost, without a timer, as `AsyncConnection.notifies` has one."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    descriptor = connection.fileno()
    loop.add_reader(descriptor, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            connection.pgconn.consume_input()
            found = False
            while connection.pgconn.notifies() is not None:
                found = True
            if found:
                notified()
    finally:
        loop.remove_reader(descriptor)
