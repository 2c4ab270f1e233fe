"""HEAD requests: what answers GET answers HEAD, with the same headers and without the body (RFC 9110 section 9.3.2)."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def methods_at(app: FastAPI, scope: Mapping[str, Any]) -> Sequence[str]:
    """Return the methods that the path of a request accepts."""
    found = [method for method in METHODS if _is_routed(app, {**scope, "method": method})]
    return [method for method in METHODS if method in found or (method == "HEAD" and "GET" in found)]


def without_body(scope: Mapping[str, Any]) -> bool:
    """Return whether only the headers of a response are sent."""
    return bool(scope.get("normlab_head"))


class HeadMiddleware:
    """Answers HEAD by the route of GET, except where HEAD has a route of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD" or _is_routed(scope["app"], scope):
            await self.app(scope, receive, send)
            return

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        routed: MutableMapping[str, Any] = {**scope, "method": "GET", "normlab_head": True}
        try:
            await self.app(routed, receive, send_headers)
        finally:
            # The middleware outside of this one logs and counts by route.
            if "route" in routed:
                scope["route"] = routed["route"]


def _is_routed(app: FastAPI, scope: Mapping[str, Any]) -> bool:
    return any(route.matches(dict(scope))[0] is Match.FULL for route in app.router.routes)
