"""Protection from web pages of other sites, which the user's browser may have open.

Two attacks need it, because a service without tokens answers whoever reaches its address:

* DNS rebinding: a page lets its own host name resolve to this address. Its requests name that host.
* Cross-site request forgery: a page submits a form to this address. The browser says so in the request.

A client with a token proves who it is in every request by a header that no other page can send. Where tokens are
configured, only requests with the session cookie are checked, for forgery: another host name has no cookie.
"""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.http.problems import ProblemResponse

READING = frozenset({"GET", "HEAD", "OPTIONS"})


class OriginMiddleware:
    """Refuses requests to host names that are not the service's, and changes that a page of another origin requests.

    Args:
        app: The application.
        allowed_hosts: Host names of the service, without port, besides `localhost` and all IP addresses, which DNS
            cannot make a name of another site. `*` allows every name.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str] = ()) -> None:
        self.app = app
        self.allowed_hosts = frozenset(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and (refusal := self._refusal(scope["method"], Headers(scope=scope))):
            status, detail = refusal
            await ProblemResponse(scope["request_id"], status, detail)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        # Browsers always send Host; a client of HTTP/1.0 need not.
        host = headers.get("host", "")
        if host and not self._is_allowed(_name(host)):
            return 421, (
                f"The request is for the host {_name(host)!r}; this service answers for localhost and IP addresses. "
                "If that is a name of this service, add it to NORMLAB_ALLOWED_HOSTS."
            )
        if method not in READING and (page := foreign_page(headers)):
            return 403, (
                f"A page of another origin ({page}) requests this change. Only the dashboard of this service may, and "
                "programs, which send neither Origin nor Sec-Fetch-Site."
            )
        return None

    def _is_allowed(self, name: str) -> bool:
        return (
            name == "localhost"
            or name.endswith(".localhost")
            or _is_address(name)
            or name in self.allowed_hosts
            or "*" in self.allowed_hosts
        )


def foreign_page(headers: Headers) -> str | None:
    """Return the origin of the page that sent a request, if it is not that of the service; None for a program."""
    origin = headers.get("origin")
    # Browsers send Sec-Fetch-Site to trustworthy addresses only: https, and http on the loopback interface.
    if site := headers.get("sec-fetch-site"):
        return None if site in ("same-origin", "none") else origin or site
    if origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
        return None
    return origin


def _name(host: str) -> str:
    """Return the name or the address of a Host header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:  # brackets around what is not an IPv6 address
        return host


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
