"""500 clients follow all events over a kill of the API, and some never read."""

import asyncio
import gc
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2

from tests.acceptance.whole_service import Service, running_service
from tests.reliability.kills import STUDY
from tests.reliability.processes import use
from tests.reliability.report import percentiles, promise, table

CLIENTS, DEAF = 500, 20
"""Clients that read, and clients that never do."""
EVENTS_PER_S, SECONDS = 10, 40
KILLED_AFTER_S = 15.0


@dataclass
class Reader:
    """A client that follows the stream and resumes it, as browsers do."""

    host: str
    port: int
    seen: list[int] = field(default_factory=list)
    lags: list[tuple[float, float]] = field(default_factory=list)
    """When each event arrived, and how long after it happened, in seconds."""
    retry_s: float = 1.0

    async def follow(self) -> None:
        """Read events until cancelled."""
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._read()
            await asyncio.sleep(self.retry_s)

    async def _read(self) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(request(self.host, self.seen[-1] if self.seen else None))
            await writer.drain()
            event: dict[str, str] = {}
            while line := await reader.readline():
                name, _, value = line.decode().strip().partition(": ")
                if name == "retry":
                    self.retry_s = int(value) / 1000
                elif name in ("id", "data"):
                    event[name] = value
                elif not name and "data" in event:
                    self._take(event["data"])
                    event = {}
        finally:
            writer.close()

    def _take(self, data: str) -> None:
        now = time.time()
        if (event := parse(data)) is not None:
            self.seen.append(event.id)
            self.lags.append((time.monotonic(), now - event.time_s))


class Event(NamedTuple):
    """The id of an event, and the seconds since 1970 at which it happened."""

    id: int
    time_s: float


@lru_cache(1000)
def parse(data: str) -> Event | None:
    """Read an event, which all clients receive alike; None for one without an id, such as progress."""
    event = json.loads(data)
    return Event(event["id"], datetime.fromisoformat(event["time"]).timestamp()) if "id" in event else None


def request(host: str, last: int | None) -> bytes:
    """Return a request for the stream, after an event."""
    lines = ["GET /v1/events?replay=false HTTP/1.1", f"Host: {host}", "Accept: text/event-stream"]
    if last is not None:
        lines.append(f"Last-Event-ID: {last}")
    return "\r\n".join([*lines, "", ""]).encode()


def run(folder: Path, *, short: bool) -> Iterator[str]:
    """Yield the table of gaps, doubles and lags."""
    clients, seconds = (50, 15) if short else (CLIENTS, SECONDS)
    with running_service(folder / "home") as service:
        job = service.client.submit(STUDY | {"epochs": 10_000})["id"]
        service.wait_for_step(job, 1)
        readers, served_at, killed_at, again_s, memory = asyncio.run(follow(service, job, clients, seconds))
        events = every_event(service.supervisor.url)
    first = max(reader.seen[0] for reader in readers)
    wanted = [id_ for id_ in events if first <= id_ <= min(reader.seen[-1] for reader in readers)]
    for reader in readers:
        seen = [id_ for id_ in reader.seen if id_ in set(wanted)]
        promise(seen == wanted, f"a client has {len(seen)} events of {len(wanted)}, or in another order")
    lags = [(at, lag) for reader in readers for at, lag in reader.lags if at > served_at]
    median, slowest = percentiles([lag for at, lag in lags if not killed_at <= at <= killed_at + again_s + 5])
    yield table(
        (
            "clients",
            "events each",
            "gaps, doubles",
            "lag p50, p99",
            "all served again after a kill",
            "memory of the API",
        ),
        [
            (
                f"{clients}, and {DEAF} that never read",
                len(wanted),
                "0, 0",
                f"{1000 * median:.0f}, {1000 * slowest:.0f} ms",
                f"{again_s:.1f} s",
                f"{memory:.0f} MiB",
            )
        ],
    )


def every_event(url: str) -> list[int]:
    """Return the ids of all events."""
    found: list[int] = []
    with httpx2.Client(base_url=url, timeout=60) as client:
        while True:
            after = found[-1] if found else 0
            page = client.get("/v1/events", params={"after": after, "limit": 1000}).json()["data"]
            if not page:
                return found
            found += [event["id"] for event in page]


async def follow(
    service: Service, job: str, clients: int, seconds: int
) -> tuple[list[Reader], float, float, float, float]:
    """Follow the events while jobs change and the API is killed once.

    Returns:
        The readers, when all had an event, when the API was killed, seconds until every reader had a later event,
        and MiB of the API.
    """
    address = urlsplit(service.supervisor.url)
    assert address.hostname is not None
    assert address.port is not None
    # The pauses of this process are no lag of the service.
    gc.disable()
    readers = [Reader(address.hostname, address.port) for _ in range(clients)]
    tasks = [asyncio.create_task(reader.follow()) for reader in readers]
    deaf = []
    for _ in range(DEAF):
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(request(address.hostname, None))
        deaf.append(writer)
    changing = asyncio.create_task(change(service.supervisor.url, job))
    await _all(lambda reader: bool(reader.seen), readers)
    served_at = time.monotonic()
    await asyncio.sleep(min(KILLED_AFTER_S, seconds / 2))
    killed_at = time.monotonic()
    os.kill(service.supervisor.pids["api"], signal.SIGKILL)
    await _all(lambda reader: reader.lags[-1][0] > killed_at + 0.5, readers)
    again_s = time.monotonic() - killed_at
    await asyncio.sleep(seconds / 2)
    memory = (await asyncio.to_thread(use, service))["api"].memory
    for task in (changing, *tasks):
        task.cancel()
    await asyncio.gather(changing, *tasks, return_exceptions=True)
    for writer in deaf:
        writer.close()
    return readers, served_at, killed_at, again_s, memory


async def change(url: str, job: str) -> None:
    """Change the name of a job many times per second."""
    number = 0
    async with httpx2.AsyncClient(base_url=url, timeout=10) as client:
        while True:
            number += 1
            with suppress(httpx2.HTTPError):
                await client.patch(f"/v1/jobs/{job}", json={"name": f"change {number}"})
            await asyncio.sleep(1 / EVENTS_PER_S)


async def _all(condition: Any, readers: list[Reader]) -> None:
    deadline = time.monotonic() + 120
    while not all(map(condition, readers)):
        promise(time.monotonic() < deadline, f"{sum(not condition(one) for one in readers)} clients are not served")
        await asyncio.sleep(0.05)
