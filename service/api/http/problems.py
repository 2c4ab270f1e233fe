"""Problem documents (RFC 9457): the body of every error."""

import http
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from service.api.http.field_problems import FieldProblem, field_problems
from service.api.http.head import methods_at
from service.errors import InvalidFields, ServiceError, Unauthorized
from service.store import DatabaseError
from service.store.database import is_disk_full, is_unavailable
from service.validation import pointer

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 50
"""Maximum number of invalid fields that are listed; `detail` has their total number."""

MissingPage = Callable[[Request], Awaitable[Response | None]]

log = logging.getLogger(__name__)


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(default="about:blank", description="always about:blank: the title describes the type")
    title: str
    status: int
    detail: str
    request_id: str = Field(description="identifies the request in the log of the service")
    errors: list[FieldProblem] | None = Field(default=None, description="the invalid fields of a request")


class ProblemResponse(JSONResponse):
    """The response that carries a problem document."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        request_id: str,
        status: int,
        detail: str,
        title: str | None = None,
        errors: Sequence[FieldProblem] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        problem = Problem(
            title=title or http.HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            request_id=request_id,
            errors=list(errors) if errors else None,
        )
        super().__init__(problem.model_dump(exclude_none=True), status_code=status, headers=headers)

    def render(self, content: Any) -> bytes:
        """Return the body as JSON."""
        # ASCII with escapes, because a quoted value may hold a lone surrogate, which UTF-8 cannot encode.
        return json.dumps(content, ensure_ascii=True).encode()


def describe(*statuses: int, answers: dict[int | str, dict[str, Any]] | None = None) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route: its `answers`, its own errors, and a default for any other error."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    described: dict[int | str, dict[str, Any]] = dict(answers or {})
    described |= {
        status: {"description": http.HTTPStatus(status).phrase, "content": content} for status in sorted(statuses)
    }
    return described | {"default": {"description": "Any other error", "content": content}}


def install(app: FastAPI, missing_page: MissingPage) -> None:
    """Install the exception handlers that answer every error as a problem.

    `missing_page` answers a browser that asks for a path without a route by a page; None: with a problem as all others.
    """

    async def http_exception(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        page = await missing_page(request) if error.status_code == 404 else None
        return page or _http_exception(request, error)

    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, http_exception)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(DatabaseError, _database_error)


def request_id_of(request: Request) -> str:
    """Return the id of a request."""
    found: str = request.scope["request_id"]
    return found


def _service_error(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, ServiceError)
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else {}
    if error.retry_after_s is not None:
        # The connection is closed, because an idle one would hold a file descriptor.
        headers |= {"Retry-After": str(error.retry_after_s), "Connection": "close"}
    elif error.status >= 500:
        log.error("%s: %s", error.title, error)
    listed = error.fields[:MAX_ERRORS] if isinstance(error, InvalidFields) else ()
    errors = [FieldProblem(pointer=pointer(path), detail=detail) for path, detail in listed]
    return ProblemResponse(request_id_of(request), error.status, str(error), error.title, errors, headers=headers)


def _http_exception(request: Request, error: HTTPException) -> ProblemResponse:
    headers = dict(error.headers or {})
    detail = error.detail
    match error.status_code:
        case 404:
            detail = f"There is nothing at {request.url.path}."
        case 405:
            headers["Allow"] = ", ".join(methods_at(request.app, request.scope))
            detail = f"{request.url.path} does not accept {request.method}, only {headers['Allow']}."
        case 400:
            detail = "The body cannot be read as JSON in UTF-8."
    return ProblemResponse(request_id_of(request), error.status_code, detail, headers=headers)


def _invalid_request(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(entry["type"] == "json_invalid" for entry in found):
        position, reason = found[0]["loc"][-1], found[0]["ctx"]["error"]
        return ProblemResponse(request_id_of(request), 400, f"The body is not JSON: {reason}, at character {position}.")
    if isinstance(error.body, bytes):
        given = request.headers.get("content-type", "missing")
        detail = f"The Content-Type is {given}: send application/json."
        return ProblemResponse(request_id_of(request), 415, detail)
    # A body of 1 MiB has up to 100,000 invalid fields, and explaining one takes longer than finding it.
    problems = field_problems(found[:MAX_ERRORS], request.scope["route"])
    detail = problems[0].detail if len(found) == 1 else f"{len(found)} fields are not valid."
    return ProblemResponse(request_id_of(request), 422, detail, "Invalid request", problems)


def _database_error(request: Request, error: Exception) -> ProblemResponse:
    request_id = request_id_of(request)
    log.error("database error", exc_info=error)
    if is_disk_full(error):
        return ProblemResponse(request_id, 507, "The disk of the database is full.", "Storage full")
    if is_unavailable(error):
        detail = "The database does not answer, or is too busy. Nothing was changed; try again."
        return ProblemResponse(request_id, 503, detail, headers={"Retry-After": "1"})
    return ProblemResponse(request_id, 500, INTERNAL)


INTERNAL = "The service failed to process the request. Its log has the cause under this request_id."
