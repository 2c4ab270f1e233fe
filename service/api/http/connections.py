"""Connections whose clients do not finish their requests.

Each connection holds a file descriptor. uvicorn limits the time between two requests, and not that of a request: here
one that does not arrive in time ends its connection. If there are too many connections, those that wait for a request
are closed, beginning with the one that has waited longest, so that others are served.
"""

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0
"""Seconds from the beginning of a connection, or the first byte of a further request, to the end of the headers."""
BODY_S = 30.0
"""Seconds that a client may pause within the body of a request."""
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def protocol(max_connections: int | None) -> type[asyncio.Protocol]:
    """Return the protocol of a server with this number of connections; None is no limit."""
    return type("Limited", (_Limited,), {"limit": max_connections, "waiting": {}})


class _Limited(H11Protocol):
    limit: ClassVar[int | None]
    waiting: ClassVar[dict["_Limited", None]]
    """The connections without a request, in the order in which they began to wait."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request; close another connection if there are too many."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._watch()
        if self.limit is not None and len(self.connections) >= self.limit and self.waiting:
            longest = next(iter(self.waiting))
            del self.waiting[longest]
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.waiting.pop(self, None)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass data on, and limit the time until the rest arrives."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request, for which uvicorn limits the time until its first byte."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        state = self.conn.their_state
        if state is h11.IDLE:
            self.waiting.setdefault(self)
            if self.timeout_keep_alive_task is not None:
                self._stop_timer()
            elif self._timer is None:
                self._timer = self.loop.call_later(HEADERS_S, self._end_headers)
            return
        self.waiting.pop(self, None)
        self._stop_timer()
        if state is h11.SEND_BODY:
            self._timer = self.loop.call_later(BODY_S, self._end_body)

    def _end_headers(self) -> None:
        if self.conn.trailing_data[0] and not self.transport.is_closing():
            self.transport.write(TIMED_OUT)
        self.transport.close()

    def _end_body(self) -> None:
        if self.flow.read_paused:
            # The service has not read what the client has sent.
            self._timer = self.loop.call_later(BODY_S, self._end_body)
            return
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
