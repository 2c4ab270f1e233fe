"""The errors of the client."""

import json
from typing import Any

import httpx2


class ClientError(Exception):
    """The base of all errors of the client. The message describes the failure and its cause."""


class ApiError(ClientError):
    """The service refused a request. The fields are those of its problem document (RFC 9457)."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str = "",
        errors: list[dict[str, Any]] | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(status, title, detail, errors, request_id)
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors or []
        self.request_id = request_id

    def __str__(self) -> str:
        if self.errors:
            places = (e.get("pointer") or e.get("parameter") or e.get("header") for e in self.errors)
            lines = zip(places, self.errors, strict=True)
            return "\n".join((f"{place}: " if place else "") + str(e.get("detail", "")) for place, e in lines)
        return self.detail or f"{self.title} (HTTP {self.status})"


class ConnectionFailed(ClientError):
    """The service cannot be reached, or the connection broke and could not be restored."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"No service can be reached at {self.url} ({self.reason}). "
            "Start one with `normlab up`, or set NORMLAB_URL to the address of yours."
        )


class NotNormlab(ClientError):
    """The server at the address is not a normlab service."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)

    def __str__(self) -> str:
        return "{} is not a normlab service ({}): set NORMLAB_URL to the address of one".format(*self.args)


class CorruptDownload(ClientError):
    """A downloaded file does not match the sha256 that the service recorded."""


def raise_problem(response: httpx2.Response) -> None:
    """Raise `ApiError` if `response` is an error."""
    if not response.is_error:
        return
    try:
        document = json.loads(response.read())
    except ValueError:
        document = None
    problem = document if isinstance(document, dict) else {}
    raise ApiError(
        response.status_code,
        problem.get("title") or response.reason_phrase,
        problem.get("detail") or "",
        problem.get("errors"),
        problem.get("request_id"),
    )
