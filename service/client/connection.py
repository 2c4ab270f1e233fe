"""The connection to the service: requests that are retried, event streams and downloads that resume."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import urlsplit

import httpx2

from service.client.calls import Answer, Call, Listing
from service.client.errors import ApiError, ClientError, ConnectionFailed, NotNormlab, raise_problem
from service.client.requests import given, header, json_body
from service.settings import is_loopback

Json = dict[str, Any]
OnProgress = Callable[[int, int], object]
"""Called with the number of bytes that have arrived, and the size of the file."""

_Http = TypeVar("_Http", httpx2.Client, httpx2.AsyncClient)

DEFAULT_URL = "http://127.0.0.1:8000"
_SILENCE_S = 60.0  # the service sends a comment into a quiet stream every 15 s
_UNAVAILABLE = frozenset({502, 503, 504})
_BREAKS = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)


class Attempts:
    """A context manager that suppresses lost connections and "service unavailable", so that its body can be repeated.

    Between attempts one waits for `pause_s()` seconds, longer each time; it raises the last error once no attempt has
    succeeded for `patience_s` seconds.
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

    def accept(self, method: str, response: httpx2.Response) -> None:
        """Raise `ApiError` for an error, except where a repeated DELETE finds that the first one has deleted."""
        if not (method == "DELETE" and self.lost_an_answer and response.status_code == 404):
            raise_problem(response)

    def succeed(self) -> None:
        """Note that data arrived: the patience starts again."""
        self._pause_s = self._first_pause_s
        self._failing_since = None

    def pause_s(self) -> float:
        """Return the seconds to wait before the next attempt. Raises the last error once the patience has run out."""
        self._failing_since = self._failing_since or time.monotonic()
        if time.monotonic() - self._failing_since > self._patience_s:
            raise self.error
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, 2.0)
        return pause_s

    def pause(self) -> None:
        """Wait before the next attempt. Raises as `pause_s`."""
        time.sleep(self.pause_s())


@dataclass(frozen=True)
class Event:
    """One server-sent event. `id` is empty before the first event that has one."""

    id: str
    type: str
    data: Json


class EventStream:
    """The position in a stream of server-sent events, and how it is resumed after the event with the id `last`.

    An event `open` comes first if `last` is empty, and again whenever a stream without an id had to start anew.
    """

    def __init__(self, last: str, deadline: float) -> None:
        self._last = last
        self._deadline = deadline

    @property
    def ended(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self._deadline

    def options(self, params: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the options of the next request: it ends at the deadline, or when nothing arrives for long."""
        silence_s = max(min(_SILENCE_S, self._deadline - time.monotonic()), 0.001)
        return {"params": params, "headers": {"Last-Event-ID": self._last} if self._last else {}, "timeout": silence_s}

    def opened(self) -> Iterator[Event]:
        """Yield the event `open` if the stream begins anew."""
        if not self._last:
            yield Event("", "open", {})

    def take(self, sent: httpx2.ServerSentEvent) -> Iterator[Event]:
        """Yield the event, unless it is a comment, and note its position."""
        self._last = sent.id or self._last
        if sent.data:
            yield Event(self._last, sent.event, json.loads(sent.data))


class Address:
    """The address of a service and the token, which are checked.

    Args:
        base_url: Address of the service; by default NORMLAB_URL, else http://127.0.0.1:8000.
        token: Bearer token; by default NORMLAB_TOKEN, if set.

    Raises:
        ValueError: The address is not an HTTP URL.
    """

    def __init__(self, base_url: str | None, token: str | None) -> None:
        address = base_url or os.environ.get("NORMLAB_URL") or DEFAULT_URL
        self._is_local = is_loopback(_host_of(address))
        self.base_url = address.rstrip("/")
        token = token or os.environ.get("NORMLAB_TOKEN")
        self._headers = header("Authorization", f"Bearer {token}", " (the token)") if token else {}

    def connect(self, kind: Callable[..., _Http], timeout_s: float) -> _Http:
        """Return an HTTP client of `kind` for this address. Raises ValueError for a proxy that cannot be used."""
        try:
            return kind(
                base_url=self.base_url,
                headers=self._headers,
                timeout=timeout_s,
                trust_env=not self._is_local,
                follow_redirects=True,
            )
        except (ValueError, ImportError, httpx2.InvalidURL) as error:
            raise ValueError(f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: {error}") from error


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
        address = Address(base_url, token)
        self.base_url = address.base_url
        self._http = address.connect(httpx2.Client, timeout_s)
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
        options = with_body(options)
        attempts = Attempts(self.base_url, self._backoff_s, self._retry_s)
        while True:
            with attempts:
                response = self._http.request(method, path, **options)
                attempts.accept(method, response)
                return response
            attempts.pause()

    def run(self, call: Call[Answer]) -> Answer:
        """Send a request and return what it asks for. Raises as `request`, and `NotNormlab`."""
        return call.read(decoded(self.base_url, self.request(call.method, call.path, **call.options)))

    def json(self, method: str, path: str, **options: Any) -> Json:
        """Send a request and return the JSON object of the answer. Raises as `request`, and `NotNormlab`."""
        return decoded(self.base_url, self.request(method, path, **options))

    def pages(self, listing: Listing) -> Iterator[Json]:
        """Yield the entries of a list page after page."""
        while not listing.done:
            yield from listing.take(self.json("GET", listing.path, params=given(listing.params)))

    def ask_once(self, path: str) -> Json:
        """Return the JSON object at `path`, whatever the status of the answer, without a repeat."""
        with Attempts(self.base_url, 0, 0) as attempts:
            return decoded(self.base_url, self._http.get(path))
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
        """Yield the server-sent events after the id `last`, resuming where the connection breaks, up to `deadline`."""
        attempts = Attempts(self.base_url, self._backoff_s, self._patience_s)
        stream = EventStream(last, deadline)
        while True:
            with attempts, self._http.sse(path, **stream.options(params)) as source:
                raise_problem(source.response)
                yield from stream.opened()
                for sent in source:
                    attempts.succeed()
                    yield from stream.take(sent)
                    if stream.ended:
                        break
            if stream.ended:
                return
            attempts.pause()


def with_body(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a request with its JSON encoded. Raises `InvalidRequest` if it cannot be."""
    if "json" not in options:
        return options
    rest = {name: value for name, value in options.items() if name != "json"}
    headers = {"Content-Type": "application/json", **options.get("headers", {})}
    return rest | {"content": json_body(options["json"]), "headers": headers}


def decoded(url: str, response: httpx2.Response) -> Json:
    """Return the JSON object of an answer of the service at `url`. Raises `NotNormlab` if it is none."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NotNormlab(url, "no JSON object")
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
