"""Which field of a request is wrong, and what would be accepted instead."""

import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from pydantic_core.core_schema import ErrorType

_STANDARD = frozenset(get_args(ErrorType))
_SHOWN = 80


class FieldProblem(BaseModel):
    """What is wrong with one field of the body, one query or path parameter, or one header."""

    pointer: str | None = Field(default=None, description="JSON pointer (RFC 6901) into the body")
    parameter: str | None = Field(default=None, description="name of the query or path parameter")
    header: str | None = Field(default=None, description="name of the header")
    detail: str = Field(description="the value, and what would be accepted")


async def known_parameters_only(request: Request) -> None:
    """Refuse the query parameters of a request to a route that has none; the others refuse by themselves."""
    if not request.scope["route"].dependant.query_params and (given := request.query_params):
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": "Not accepted", "input": value}
                for name, value in given.multi_items()
            ]
        )


def field_problems(errors: Sequence[Any], route: APIRoute) -> list[FieldProblem]:
    """pydantic's errors about a request to `route`, each with its field and a sentence."""
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


def explain(
    error: Mapping[str, Any], loc: Sequence[str | int], annotation: Any, whole: str = "the body"
) -> tuple[list[str | int], str]:
    """The path to the field that pydantic's `error` at `loc` means, and a sentence about it."""
    path, model = locate(loc, annotation)
    context = error.get("ctx", {})
    if error["type"] not in _STANDARD and "field" in context:
        path.append(context["field"])
    elif error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path.append(context["discriminator"].strip("'"))
    # An entry of a list is told by the name of the list: its place is in the pointer.
    name = next((part for part in reversed(path) if isinstance(part, str)), whole)
    return path, _sentence(error, name, model)


def pointer(path: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{_escaped(part)}" for part in path)


def locate(loc: Sequence[str | int], annotation: Any) -> tuple[list[str | int], Any]:
    """The path to the field that a pydantic location means, and the annotation of what holds or is that field.

    pydantic puts the tag of a discriminated union between a field and what is in it, and "[key]" after a bad key of a
    dictionary; neither is in the body.
    """
    path: list[str | int] = []
    holder = node = annotation
    for part in loc:
        members = _models(node)
        if len(members) > 1:
            holder = node
            node = next((member for member in members if part in _tags(member)), None)
            if node is not None:
                continue
        elif part == "[key]":
            continue
        path.append(part)
        holder = node
        fields = members[0].model_fields if members else {}
        node = fields[part].annotation if part in fields else _item(node) if isinstance(part, int) else None
    return path, holder if node is None else node


def _models(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for member in get_args(annotation) for model in _models(member)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["type"].annotation) if "type" in model.model_fields else ()


def _item(annotation: Any) -> Any:
    arguments = get_args(annotation)
    return arguments[0] if arguments and get_origin(annotation) in (list, tuple) else None


def _annotation(place: str, route: APIRoute) -> Any:
    if place == "body" and route.body_field is not None:
        return route.body_field.field_info.annotation
    if place == "query":
        return next((field.field_info.annotation for field in route.dependant.query_params), None)
    return None


def _sentence(error: Mapping[str, Any], name: str, holder: Any) -> str:
    message: str = error["msg"]
    if error["type"] not in _STANDARD:
        return message
    models = _models(holder)
    match error["type"]:
        case "missing":
            return f"{name} is required."
        case "extra_forbidden":
            accepted = sorted({name for model in models for name in model.model_fields})
            if close := difflib.get_close_matches(name, accepted, n=1):
                return f"There is no {name}: did you mean {close[0]}?"
            return f"There is no {name}: " + (f"give {_listed(accepted)}." if accepted else "nothing is accepted here.")
        case "union_tag_not_found":
            return f"{name} is required: give {_listed(_all_tags(models))}."
        case "union_tag_invalid":
            return f"{name} is {shown(error['ctx']['tag'])}: give {_listed(_all_tags(models))}."
    reason = message[:1].lower() + message[1:]
    return f"{name} is {shown(error['input'])}: {reason.removeprefix('value error, ')}."


def _all_tags(models: Sequence[type[BaseModel]]) -> list[str]:
    return [tag for model in models for tag in _tags(model)]


def _listed(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}" if len(names) > 1 else "".join(names)


def shown(value: object) -> str:
    """A value as it is quoted in an error: short, whatever was sent."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _escaped(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")
