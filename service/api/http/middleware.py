"""ASGI middleware: request id, body limit, access log, metrics, 500 handler."""

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.api.http.head import METHODS
from service.api.http.prefix import prefixed, without_prefix
from service.api.http.problems import INTERNAL, ProblemResponse
from service.api.prometheus import Telemetry

MAX_BODY_SIZE = 1 << 20
MAX_BUNDLE_SIZE = 1 << 30
LARGE_BODIES = {"/v1/bundles": MAX_BUNDLE_SIZE}
"""Limits of paths whose bodies are streamed to a file."""
UNROUTED = "unrouted"

log = logging.getLogger(__name__)
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})


class RequestMiddleware:
    """Assigns an id to each request, limits its body, logs and counts it, and answers unhandled exceptions.

    It removes the prefix `root_path` from the path, and adds it to links.

    The id is that of the header `X-Request-ID` if it is well formed. It is returned in the same header and in every
    problem document; a 500 has nothing but the id, under which the log has the exception.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, root_path: str = "") -> None:
        self.app = app
        self.telemetry = telemetry
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Routes know no prefix; a proxy removes it or leaves it.
        scope["path"] = without_prefix(scope["path"], self.root_path)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = scope["request_id"] = given if _SANE.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})
        started = time.perf_counter()
        status = 0
        received = 0
        limit = LARGE_BODIES.get(scope["path"], MAX_BODY_SIZE)

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, f"The body has more than {limit} bytes.")
            return message

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), scope, request_id)
            await send(message)

        with logs.about(request=request_id), prefixed(self.root_path):
            try:
                await self.app(scope, limited_receive, noting_send)
            except Exception:
                log.exception("unhandled exception")
                if status:
                    raise
                await ProblemResponse(request_id, 500, INTERNAL)(scope, receive, noting_send)
            finally:
                self._note(scope, status, time.perf_counter() - started)

    def _add_headers(self, headers: MutableHeaders, scope: Scope, request_id: str) -> None:
        headers["X-Request-ID"] = request_id
        headers.setdefault("Referrer-Policy", "no-referrer")
        if scope["state"].get("shared"):
            # What a link shows is kept by no cache and no search engine, so that revoking it ends it.
            headers["Cache-Control"] = "no-store"
            headers["X-Robots-Tag"] = "noindex"

    def _note(self, scope: Scope, status: int, duration_s: float) -> None:
        route = getattr(scope.get("route"), "path", UNROUTED)
        self.telemetry.observe(scope["method"] if scope["method"] in METHODS else "other", route, status, duration_s)
        level = logging.DEBUG if route in _QUIET else logging.INFO
        client = scope.get("client")
        log.log(
            level,
            "%s %s %s",
            scope["method"],
            scope["path"],
            status or "disconnected",
            extra={
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_s": round(duration_s, 6),
                "client": client[0] if client else None,
            },
        )
