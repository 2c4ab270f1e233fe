"""Explanations of validation errors: the invalid field, and a sentence with the accepted values."""

import difflib
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core.core_schema import ErrorType

_STANDARD = frozenset(get_args(ErrorType))
_SHOWN = 80


def explain(
    error: Mapping[str, Any], loc: Sequence[str | int], annotation: Any, whole: str = "the body"
) -> tuple[list[str | int], str]:
    """Return the path to the invalid field of pydantic's `error`, and a sentence with the accepted values."""
    path, model = locate(loc, annotation)
    context = error.get("ctx", {})
    if error["type"] not in _STANDARD and "field" in context:
        path.append(context["field"])
    elif error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        path.append(context["discriminator"].strip("'"))
    # An entry of a list is named after the list; the pointer has its position.
    name = next((part for part in reversed(path) if isinstance(part, str)), whole)
    return path, _sentence(error, name, model)


def pointer(path: Sequence[str | int]) -> str:
    """Return a path as a JSON pointer (RFC 6901)."""
    return "".join(f"/{_escaped(part)}" for part in path)


def locate(loc: Sequence[str | int], annotation: Any) -> tuple[list[str | int], Any]:
    """Return the path to the field at a pydantic location, and the annotation of the field or of what contains it.

    pydantic puts the tag of a discriminated union between a field and what is in it, and "[key]" after a bad key of a
    dictionary; neither is part of the body.
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
    """Return a value as it is quoted in an error, shortened."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _escaped(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")
