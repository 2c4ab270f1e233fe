"""The connection of `AsyncClient`: requests that are repeated, and event streams that resume, on an event loop."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2

from service.client.calls import Answer, Call, Listing
from service.client.connection import Address, Attempts, Event, EventStream, decoded, with_body
from service.client.errors import raise_problem
from service.client.requests import given

Json = dict[str, Any]


class AsyncConnection:
    """Sends requests to one service as `Connection` does, without blocking the event loop. It has its arguments."""

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 30,
        backoff_s: float = 0.1,
        retry_s: float = 1,
        patience_s: float = 60,
    ) -> None:
        address = Address(base_url, token)
        self.base_url = address.base_url
        self._http = address.connect(httpx2.AsyncClient, timeout_s)
        self._backoff_s = backoff_s
        self._retry_s = retry_s
        self._patience_s = patience_s

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send a request and return the answer. Raises as `Connection.request`."""
        options = with_body(options)
        attempts = Attempts(self.base_url, self._backoff_s, self._retry_s)
        while True:
            with attempts:
                response = await self._http.request(method, path, **options)
                attempts.accept(method, response)
                return response
            await asyncio.sleep(attempts.pause_s())

    async def run(self, call: Call[Answer]) -> Answer:
        """Send a request and return what it asks for. Raises as `request`, and `NotNormlab`."""
        return call.read(decoded(self.base_url, await self.request(call.method, call.path, **call.options)))

    async def pages(self, listing: Listing) -> AsyncGenerator[Json, None]:
        """Yield the entries of a list page after page."""
        while not listing.done:
            answer = await self.request("GET", listing.path, params=given(listing.params))
            for entry in listing.take(decoded(self.base_url, answer)):
                yield entry

    async def ask_once(self, path: str) -> Json:
        """Return the JSON object at `path`, whatever the status of the answer, without a repeat."""
        with Attempts(self.base_url, 0, 0) as attempts:
            return decoded(self.base_url, await self._http.get(path))
        raise attempts.error

    async def events(
        self, path: str, last: str, deadline: float, params: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield the server-sent events after the id `last`, resuming where the connection breaks, up to `deadline`."""
        attempts = Attempts(self.base_url, self._backoff_s, self._patience_s)
        stream = EventStream(last, deadline)
        while True:
            with attempts:
                async with self._http.sse(path, **stream.options(params)) as source:
                    if source.response.is_error:
                        await source.response.aread()
                        raise_problem(source.response)
                    for event in stream.opened():
                        yield event
                    async for sent in source:
                        attempts.succeed()
                        for event in stream.take(sent):
                            yield event
                        if stream.ended:
                            break
            if stream.ended:
                return
            await asyncio.sleep(attempts.pause_s())
