"""What can go wrong between a client and the service, and how long it is put up with."""

import json
import re
import time
from collections.abc import Mapping
from typing import Any, Self

import httpx2

_UNAVAILABLE = frozenset({502, 503, 504})
_BREAKS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)


class ClientError(Exception):
    """Something the caller asked for did not happen; the text says what and why."""


class ApiError(ClientError):
    """The service refused a request: what its problem document says."""

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
    """The service could not be reached, or the connection broke and could not be made again."""

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
    """Something else answers at the address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)

    def __str__(self) -> str:
        return "{} answers, but not as a normlab service does ({}): set NORMLAB_URL to the address of one".format(
            *self.args
        )


class CorruptDownload(ClientError):
    """A file arrived whole, and is not the file that was stored."""


class Attempts:
    """A context that outlives broken connections and a service that is away for a moment. The pauses between attempts
    grow, and end with the error once none succeeded for `patience_s` seconds."""

    def __init__(self, url: str, first_pause_s: float, patience_s: float, advice: str = "") -> None:
        self._url = url
        self._advice = advice
        self._first_pause_s = self._pause_s = first_pause_s
        self._patience_s = patience_s
        self._failing_since: float | None = None
        self.error: ClientError = ConnectionFailed(url, "it closed the connection too soon" + advice)
        self.lost_an_answer = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, _BREAKS):
            self.error = ConnectionFailed(self._url, _reason(error) + self._advice)
            self.lost_an_answer |= not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            return True
        if isinstance(error, ApiError) and error.status in _UNAVAILABLE:
            self.error = error
            return True
        if isinstance(error, httpx2.HTTPError):
            raise NotNormlab(self._url, str(error)) from error
        return False

    def succeed(self) -> None:
        self._pause_s = self._first_pause_s
        self._failing_since = None

    def pause(self) -> None:
        self._failing_since = self._failing_since or time.monotonic()
        if time.monotonic() - self._failing_since > self._patience_s:
            raise self.error
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, 2.0)


def _reason(error: BaseException) -> str:
    """`[Errno 111] Connection refused` is for programs: `connection refused`."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return text[:1].lower() + text[1:] or type(error).__name__


def raise_problem(response: httpx2.Response) -> None:
    """Raise the ApiError that `response` stands for, if it is one."""
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


def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The query parameters that are not None."""
    return {name: value for name, value in parameters.items() if value is not None}
