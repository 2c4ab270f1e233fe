"""The connection to the service: requests that are retried, event streams and downloads that resume, and the errors."""

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Self
from urllib.parse import urlsplit

import httpx2

from service.client.requests import given, header, json_body
from service.settings import is_loopback

Json = dict[str, Any]
OnProgress = Callable[[int, int], object]
"""Called with the number of bytes that have arrived, and the size of the file."""

DEFAULT_URL = "http://127.0.0.1:8000"
_SILENCE_S = 60.0  # the service sends a comment into a quiet stream every 15 s
_UNAVAILABLE = frozenset({502, 503, 504})
_BREAKS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)


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


class Attempts:
    """A context manager that suppresses lost connections and "service unavailable", so that its body can be repeated.

    `pause` waits between attempts, longer each time, and raises the last error once no attempt has succeeded for
    `patience_s` seconds.
    """

    def __init__(self, url: str, first_pause_s: float, patience_s: float, advice: str = "") -> None:
        self._url = url
        self._advice = advice
        self._first_pause_s = self._pause_s = first_pause_s
        self._patience_s = patience_s
        self._failing_since: float | None = None
        self.error: ClientError = ConnectionFailed(url, "it closed the connection early" + advice)
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
        """Note that data arrived: the patience starts again."""
        self._pause_s = self._first_pause_s
        self._failing_since = None

    def pause(self) -> None:
        """Wait before the next attempt. Raises the last error once the patience has run out."""
        self._failing_since = self._failing_since or time.monotonic()
        if time.monotonic() - self._failing_since > self._patience_s:
            raise self.error
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, 2.0)


@dataclass(frozen=True)
class Event:
    """One server-sent event. `id` is empty before the first event that has one."""

    id: str
    type: str
    data: Json


class Connection:
    """Sends requests to one service, and repeats them while the connection fails or the service is unavailable.

    Every request of this API may be sent twice: a submission carries an idempotency key, and the verbs are idempotent.

    Args:
        base_url: Address of the service; by default NORMLAB_URL, else http://127.0.0.1:8000.
        token: Bearer token; by default NORMLAB_TOKEN, if set.
        timeout_s: Seconds to wait for each answer.
        backoff_s: Seconds before the first repeat; each further pause is twice as long, up to 2 s.
        retry_s: Seconds for which a request is repeated.
        patience_s: Seconds for which an event stream or a download tries to resume.

    Raises:
        ValueError: The address is not an HTTP URL.
    """

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
        address = base_url or os.environ.get("NORMLAB_URL") or DEFAULT_URL
        host = _host_of(address)
        self.base_url = address.rstrip("/")
        token = token or os.environ.get("NORMLAB_TOKEN")
        headers = header("Authorization", f"Bearer {token}", " (the token)") if token else {}
        try:
            self._http = httpx2.Client(
                base_url=self.base_url,
                headers=headers,
                timeout=timeout_s,
                trust_env=not is_loopback(host),
                follow_redirects=True,
            )
        except (ValueError, ImportError, httpx2.InvalidURL) as error:
            raise ValueError(f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: {error}") from error
        self._backoff_s = backoff_s
        self._retry_s = retry_s
        self._patience_s = patience_s

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Send a request and return the answer. `options` are those of `httpx2.Client.request`.

        Raises:
            InvalidRequest: The body in `options` cannot be sent as JSON.
            ApiError: The service refused the request, or was still unavailable after `retry_s` seconds.
            ConnectionFailed: The service could not be reached for `retry_s` seconds.
        """
        if "json" in options:
            options["content"] = json_body(options.pop("json"))
            options["headers"] = {"Content-Type": "application/json", **options.get("headers", {})}
        attempts = Attempts(self.base_url, self._backoff_s, self._retry_s)
        while True:
            with attempts:
                response = self._http.request(method, path, **options)
                if method == "DELETE" and attempts.lost_an_answer and response.status_code == 404:
                    return response
                raise_problem(response)
                return response
            attempts.pause()

    def json(self, method: str, path: str, **options: Any) -> Json:
        """Send a request and return the JSON object of the answer. Raises as `request`, and `NotNormlab`."""
        return self._decoded(self.request(method, path, **options))

    def pages(self, path: str, cursor: str, filters: Mapping[str, Any], most: int | None = None) -> Iterator[Json]:
        """Yield the entries of a list page after page, at most `most`; `cursor` is the parameter of the next page."""
        params = given(filters)
        left = math.inf if most is None else most
        while left > 0:
            page = self.json("GET", path, params=params)
            for entry in page["data"]:
                yield entry
                left -= 1
                if left <= 0:
                    return
            if page.get("next_cursor") is None:
                return
            params[cursor] = page["next_cursor"]

    def ask_once(self, path: str) -> Json:
        """Return the JSON object at `path`, whatever the status of the answer, without a repeat."""
        with Attempts(self.base_url, 0, 0) as attempts:
            return self._decoded(self._http.get(path))
        raise attempts.error

    def save(self, path: str, sink: BinaryIO, **options: Any) -> None:
        """Write the body of an answer to a file."""
        attempts = Attempts(self.base_url, self._backoff_s, self._retry_s)
        while True:
            with attempts, self._http.stream("GET", path, **options) as response:
                raise_problem(response)
                sink.seek(0)
                sink.truncate()
                for chunk in response.iter_raw():
                    sink.write(chunk)
                return
            attempts.pause()

    def resume(
        self, path: str, sink: BinaryIO, size: int, sha256: str, on_progress: OnProgress, advice: str = ""
    ) -> None:
        """Append the missing bytes of a file of `size` bytes to `sink`, by range requests."""
        attempts = Attempts(self.base_url, self._backoff_s, self._patience_s, advice)
        if sink.seek(0, os.SEEK_END) > size:
            sink.truncate(0)
        while (done := sink.seek(0, os.SEEK_END)) < size:
            on_progress(done, size)
            headers = {"Accept-Encoding": "identity"}
            if done:
                headers |= {"Range": f"bytes={done}-", "If-Range": f'"{sha256}"'}
            with attempts, self._http.stream("GET", path, headers=headers) as response:
                raise_problem(response)
                if response.status_code != 206:
                    sink.truncate(0)
                    sink.seek(0)
                for chunk in response.iter_raw():
                    sink.write(chunk)
                    attempts.succeed()
                    on_progress(sink.tell(), size)
            if sink.tell() < size:
                attempts.pause()
        on_progress(size, size)

    def events(self, path: str, last: str, deadline: float, params: Mapping[str, Any] | None = None) -> Iterator[Event]:
        """Yield the server-sent events after the id `last`, resuming where the connection breaks, up to `deadline`.

        An event `open` comes first if `last` is empty, and again whenever a stream without an id had to start anew.
        """
        attempts = Attempts(self.base_url, self._backoff_s, self._patience_s)
        while True:
            with attempts:
                silence_s = max(min(_SILENCE_S, deadline - time.monotonic()), 0.001)
                headers = {"Last-Event-ID": last} if last else {}
                with self._http.sse(path, params=params, headers=headers, timeout=silence_s) as source:
                    raise_problem(source.response)
                    if not last:
                        yield Event("", "open", {})
                    for sent in source:
                        attempts.succeed()
                        last = sent.id or last
                        if sent.data:
                            yield Event(last, sent.event, json.loads(sent.data))
                        if time.monotonic() > deadline:
                            break
            if time.monotonic() > deadline:
                return
            attempts.pause()

    def _decoded(self, response: httpx2.Response) -> Json:
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise NotNormlab(self.base_url, "no JSON object")
        return document


def _host_of(address: str) -> str:
    """Return the host of the address of a service. Raises ValueError if it is not an HTTP URL."""
    reason = ""
    try:
        url = httpx2.URL(address)
        url.host.encode("idna")
        plain = not url.query and not url.fragment
        if url.scheme in ("http", "https") and url.host and plain and urlsplit(address).port != 0:
            return url.host
    except (ValueError, httpx2.InvalidURL) as error:
        reason = f" ({error})"
    raise ValueError(f"the address of the service is {address!r}{reason}: give one like {DEFAULT_URL}")


def _reason(error: BaseException) -> str:
    """The text of an error without its number: `[Errno 111] Connection refused` becomes `connection refused`."""
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return text[:1].lower() + text[1:] or type(error).__name__


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
