"""A scripted server on a real socket, for responses and failures that the real service rarely gives."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from service.experiments import axes
from service.experiments.titles import job_title

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A request of a client."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """A response. If `announced` exceeds the length of the body, the connection is closed after the body."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None


CUT = Answer(status=0)
"""A response that closes the connection without a byte."""

Script = Answer | Callable[[Request], Answer]


class StandIn:
    """Answers each route by a script: one response per request, and the last one repeatedly.

    Every id exists: without a script, a list that is asked for an id has it.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.scripts: dict[tuple[str, str], list[Script]] = {}
        self.url = ""

    def on(self, method: str, path: str, *script: Script) -> None:
        """Set the responses of `method path`."""
        self.scripts[method, path] = list(script)

    def to(self, method: str, path: str) -> list[Request]:
        """Return the requests that a route has received."""
        return [request for request in self.requests if (request.method, request.path) == (method, path)]

    def answer(self, request: Request) -> Answer:
        """Return the next response of the script."""
        self.requests.append(request)
        script = self.scripts.get((request.method, request.path))
        if not script and request.method == "GET" and "id" in request.query:
            return Answer({"data": [{"id": request.query["id"][0]}], "next_cursor": None})
        if not script:
            return problem(404, f"There is nothing at {request.path}.")
        step = script.pop(0) if len(script) > 1 else script[0]
        return step if isinstance(step, Answer) else step(request)


def read(body: bytes, headers: dict[str, str]) -> Any:
    """Return the body, parsed if its type is JSON."""
    if not body:
        return None
    return json.loads(body) if headers.get("content-type", "").startswith("application/json") else body


def problem(status: int, detail: str, **more: Any) -> Answer:
    """Return a problem detail (RFC 9457)."""
    return Answer({"title": "Problem", "status": status, "detail": detail, "request_id": "r1", **more}, status)


def stream(*events: tuple[str, str, Json], announced: int | None = None) -> Answer:
    """Return server-sent events, each given as (id, type, data)."""
    text = "".join(
        (f"id: {id_}\n" if id_ else "") + f"event: {kind}\ndata: {json.dumps(data)}\n\n" for id_, kind, data in events
    )
    return Answer(text.encode(), headers={"Content-Type": "text/event-stream"}, announced=announced)


def file_server(content: bytes, etag: str, cut_after: int | None = None) -> Callable[[Request], Answer]:
    """Serve `content` as the API does, with ranges; every response breaks off after `cut_after` bytes."""

    def serve(request: Request) -> Answer:
        start, status = 0, 200
        if "range" in request.headers and request.headers.get("if-range") == f'"{etag}"':
            start, status = int(request.headers["range"].removeprefix("bytes=").removesuffix("-")), 206
        rest = content[start:]
        cut = cut_after is not None and cut_after < len(rest)
        return Answer(rest[:cut_after] if cut else rest, status, announced=len(rest) if cut else None)

    return serve


@contextmanager
def running() -> Iterator[StandIn]:
    """Run a scripted server on a free port."""
    service = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            where = urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            headers = {name.lower(): value for name, value in self.headers.items()}
            query = parse_qs(where.query)
            answer = service.answer(Request(self.command, where.path, query, headers, read(body, headers)))
            if answer is CUT:
                return
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(answer.announced or len(content)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def a_job(**fields: Any) -> Json:
    """Return a job as the API represents it."""
    job: Json = {
        "id": "job_1",
        "name": "",
        "status": "queued",
        "spec": {
            "model": "resnet20",
            "normalization": {"type": "group", "num_groups": 8, "channels_per_group": None},
            "batch_size": 2,
            "epochs": 3,
            "seed": 0,
            "dataset": {"name": "cifar10", "train_limit": None, "holdout": 0},
        },
        "precision": None,
        "labels": {},
        "created_at": "2026-01-01T00:00:00Z",
        "error": None,
        "progress": None,
        "summary": {},
        "attempts": [],
        "duration_s": 0.0,
        "history": [],
    }
    job |= fields
    label = axes.label("normalization", job["spec"]["normalization"])
    return {"title": job_title(job["name"], job["spec"]), "normalization": label, "metric": "test_error"} | job
