"""A client that does not finish its request loses its connection; others are served meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn

from service.api.http import connections

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n"
Connect = Callable[[], Any]


class App:
    """An application that answers once `released` is set and the body has arrived."""

    def __init__(self) -> None:
        self.released, self.called = asyncio.Event(), asyncio.Event()
        self.released.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.called.set()
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        await self.released.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving(app: App, limit: int | None = None) -> AsyncIterator[Connect]:
    """Serve an application, and return a function that connects to it."""
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_config=None, http=connections.protocol(limit), limit_concurrency=limit
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    opened: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        app.released.set()
        for writer in opened:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        await server.shutdown()


@pytest.mark.parametrize(
    ("sent", "answer"), [(b"", b""), (GET[:-2], connections.TIMED_OUT), (b"G", connections.TIMED_OUT), (POST, b"")]
)
async def test_a_request_that_is_not_finished_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, answer: bytes
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.05)
    monkeypatch.setattr(connections, "BODY_S", 0.05)
    async with serving(App()) as connect, asyncio.timeout(60):
        reader, writer = await connect()
        writer.write(sent)
        assert await reader.read() == answer


async def test_so_does_a_further_request_and_one_whose_bytes_arrive_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.5)
    async with serving(App()) as connect, asyncio.timeout(60):
        reader, writer = await connect()
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        dripping = asyncio.create_task(drip(writer))
        assert (await reader.readuntil(b"\r\n\r\n")) == connections.TIMED_OUT
        dripping.cancel()
        await asyncio.wait([dripping])


async def drip(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"G")
        await asyncio.sleep(0.01)


async def test_a_request_that_arrived_is_answered_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.5)
    monkeypatch.setattr(connections, "BODY_S", 0.01)
    app = App()
    app.released.clear()
    async with serving(app) as connect, asyncio.timeout(60):
        reader, writer = await connect()
        writer.write(POST + b"body")
        await app.called.wait()
        idle, _ = await connect()
        assert await idle.read() == b"", "its time has passed"
        app.released.set()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_beyond_the_limit_the_connection_that_waits_longest_makes_room() -> None:
    app = App()
    app.released.clear()
    async with serving(app, limit=4) as connect, asyncio.timeout(60):
        busy, writer = await connect()
        writer.write(GET)
        await app.called.wait()
        halves = [await connect() for _ in range(5)]
        for _, half in halves:
            half.write(GET[:10])
        for reader, _ in halves[:3]:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        reader, writer = await connect()
        writer.write(GET)
        app.released.set()
        for served in (busy, reader):
            assert (await served.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
