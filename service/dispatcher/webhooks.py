"""The webhook: tells one URL of the settings, or runs a command, when a job or an experiment has ended.

Requests are signed as https://www.standardwebhooks.com describes, so that receivers can use its libraries.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import time

import httpx2

from service.dispatcher import end_command
from service.dispatcher.leadership import Leadership
from service.settings import Settings
from service.store import Database, DatabaseError, deliveries
from service.store.tables import Delivery

INTERVAL_S = 2.0
"""Pause between two checks for jobs that have ended and deliveries that are due."""
TIMEOUT_S = 10.0
"""Seconds that the receiver has to answer."""
AT_ONCE = 20

logger = logging.getLogger(__name__)


async def keep(
    settings: Settings,
    database: Database,
    leadership: Leadership,
    transport: httpx2.AsyncBaseTransport | None = None,
    interval_s: float = INTERVAL_S,
) -> None:
    """Send what is due, forever; return at once if neither a webhook nor a command is configured.

    Raises:
        LeadershipLost: If another dispatcher is active.
    """
    if settings.webhook_url is None and settings.end_command is None:
        return
    # No redirects and no proxy of the environment: requests go to the configured URL alone.
    async with httpx2.AsyncClient(
        transport=transport, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False
    ) as http:
        while True:
            try:
                await send_due(settings, database, leadership, http)
            except (DatabaseError, OSError) as error:
                logger.warning("the webhook waits for the database: %s", error)
            await asyncio.sleep(interval_s)


async def send_due(settings: Settings, database: Database, leadership: Leadership, http: httpx2.AsyncClient) -> None:
    """Collect what has ended, and send every delivery that is due once."""
    async with database.read() as session:
        news = await deliveries.has_news(session)
    if news:
        async with leadership.write() as session:
            await deliveries.collect(session)
    async with database.read() as session:
        due = await deliveries.due(session, AT_ONCE)
    for delivery in due:
        answer, error = await _send(settings, http, delivery)
        # A process that is killed here sends it again, with the same webhook-id.
        async with leadership.write() as session:
            await deliveries.record(session, delivery.id, answer, error)


async def _send(settings: Settings, http: httpx2.AsyncClient, delivery: Delivery) -> tuple[int | None, str | None]:
    """Return the status of the answer, if there is one, and why it has to be sent again, None if it was accepted."""
    if settings.end_command is not None:
        error = await end_command.run(settings.end_command, delivery)
        if error is not None:
            logger.warning("%s", error, extra={"delivery": delivery.id})
        return None, error
    assert settings.webhook_url is not None
    body = json.dumps(delivery.body).encode()
    try:
        headers = {"content-type": "application/json"} | signed(settings, delivery.id, int(time.time()), body)
        # The body of the answer is not read: a receiver cannot make this process hold it.
        async with http.stream(
            "POST", settings.webhook_url.get_secret_value(), content=body, headers=headers
        ) as answer:
            status = answer.status_code
    except httpx2.HTTPError as failure:
        logger.warning("webhook not delivered: %s", type(failure).__name__, extra={"delivery": delivery.id})
        return None, f"{type(failure).__name__}: the receiver cannot be reached or does not answer"
    return status, None if 200 <= status < 300 else f"the receiver answered {status}"


def signed(settings: Settings, id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that identify a request and prove who sent it and when."""
    content = f"{id_}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(settings.webhook_key, content, hashlib.sha256).digest()).decode()
    return {"webhook-id": id_, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}
