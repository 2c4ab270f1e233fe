"""Connections and event streams leave file descriptors for other requests, and a lack of them is logged once."""

import asyncio
import errno
import logging
import resource

import pytest

from service.api.http.descriptors import LoopErrors, RefusalsOnce, max_connections, max_streams

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("limit", "streams", "connections"),
    [(64, 32, 48), (1024, 768, 896), (1 << 20, 10_000, (1 << 20) - 128), (resource.RLIM_INFINITY, 10_000, None)],
)
async def test_a_reserve_is_kept(
    monkeypatch: pytest.MonkeyPatch, limit: int, streams: int, connections: int | None
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert (max_streams(), max_connections()) == (streams, connections)
    assert (max_streams(3), max_streams(20_000)) == (3, 20_000 if streams == 10_000 else streams)


async def test_a_lack_of_descriptors_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    handle, loop = LoopErrors(), asyncio.get_running_loop()
    for _ in range(2048):
        error = OSError(errno.EMFILE, "Too many open files")
        handle(loop, {"message": "socket.accept() out of system resource", "exception": error})
        stopped = ValueError("Invalid file descriptor: -1")
        handle(loop, {"message": "Exception in callback BaseSelectorEventLoop._start_serving()", "exception": stopped})
    assert [record.getMessage() for record in caplog.records] == [
        "no connection can be accepted (Too many open files): raise the limit of open files (ulimit -n)"
    ]
    refuse = RefusalsOnce()
    refused = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "Exceeded concurrency limit.", (), None)
    other = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "Invalid HTTP request received.", (), None)
    assert [refuse.filter(record) for record in (refused, refused, other, other)] == [True, False, True, True]
    handle(loop, {"message": "another error", "exception": OSError(errno.EPIPE, "gone")})
    assert caplog.records[-1].getMessage() == "another error"
