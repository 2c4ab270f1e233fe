"""The invalid fields of a request, as a problem document lists them."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from service.validation import explain, pointer


class FieldProblem(BaseModel):
    """One invalid field: in the body, or a query parameter, a path parameter or a header."""

    pointer: str | None = Field(default=None, description="JSON pointer (RFC 6901) into the body")
    parameter: str | None = Field(default=None, description="name of the query or path parameter")
    header: str | None = Field(default=None, description="name of the header")
    detail: str = Field(description="the value, and the accepted values")


async def known_parameters_only(request: Request) -> None:
    """Refuse query parameters at a route that declares none. Every other route validates its own."""
    if not request.scope["route"].dependant.query_params and (given := request.query_params):
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": "Not accepted", "input": value}
                for name, value in given.multi_items()
            ]
        )


def field_problems(errors: Sequence[Any], route: APIRoute) -> list[FieldProblem]:
    """Convert pydantic's errors about a request to `route`."""
    return [_field_problem(error, route) for error in errors]


def _field_problem(error: Mapping[str, Any], route: APIRoute) -> FieldProblem:
    place, *loc = error["loc"]
    path, detail = explain(error, loc, _annotation(place, route), f"the {place}")
    if place == "body":
        return FieldProblem(pointer=pointer(path), detail=detail)
    name = str(path[0]) if path else ""
    return (
        FieldProblem(header=name, detail=detail) if place == "header" else FieldProblem(parameter=name, detail=detail)
    )


def _annotation(place: str, route: APIRoute) -> Any:
    if place == "body" and route.body_field is not None:
        return route.body_field.field_info.annotation
    if place == "query":
        return next((field.field_info.annotation for field in route.dependant.query_params), None)
    return None
