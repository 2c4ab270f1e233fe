"""Axes: the fields of a job along which an experiment varies, and the labels of their values.

A field of a part is named with a dot, as in `optimizer.learning_rate`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from worker.spec import TrainingSpec

Json = dict[str, Any]


def parts_of(field: str) -> tuple[str, ...]:
    """Split `optimizer.learning_rate` at its dots."""
    return tuple(field.split("."))


def place(body: Json, field: str, value: Any) -> None:
    """Set a field in the body of a job. A part that is missing or not an object becomes an object."""
    *holders, name = parts_of(field)
    for holder in holders:
        part = body.get(holder)
        body[holder] = dict(part) if isinstance(part, Mapping) else {}
        body = body[holder]
    body[name] = value


def read(spec: Mapping[str, Any], field: str) -> Any:
    """Read a field of a stored spec: None where the spec has no such field, as in `num_groups` of `batch`.

    A field that a later release has added has its default, with which the job has trained.
    """
    first, *parts = parts_of(field)
    value: Any = spec[first] if first in spec else _added().get(first)
    for part in parts:
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def has(spec: Mapping[str, Any], field: str) -> bool:
    """Whether a stored spec has a field, also with the value null."""
    *holders, name = parts_of(field)
    part = read(spec, ".".join(holders)) if holders else with_added(spec)
    return isinstance(part, Mapping) and name in part


def with_added(spec: Mapping[str, Any]) -> Json:
    """Return a stored spec with the defaults of the fields that later releases have added."""
    return {**_added(), **spec}


@cache
def _added() -> Json:
    fields = {"label_smoothing", "ema", "init_from"}
    defaults: Json = TrainingSpec.model_validate({"normalization": {"type": "none"}, "batch_size": 1}).model_dump(
        mode="json", include=fields
    )
    return defaults


def is_field(field: str) -> bool:
    """Whether a job can have this field."""
    *holders, name = parts_of(field)
    models = _models_of(".".join(holders)) if holders else [TrainingSpec]
    return any(name in model.model_fields for model in models)


def is_number(field: str) -> bool:
    """Whether the values of a field are numbers, or null."""
    *holders, name = parts_of(field)
    models = _models_of(".".join(holders)) if holders else [TrainingSpec]
    kinds = {
        kind for model in models if name in model.model_fields for kind in _kinds(model.model_fields[name].annotation)
    }
    return bool(kinds & {int, float}) and kinds <= {int, float, NoneType}


def parts(field: str) -> list[str]:
    """List the fields of a part of a job; empty for a field that is a single value."""
    return list(dict.fromkeys(f"{field}.{name}" for model in _models_of(field) for name in model.model_fields))


def fields() -> list[str]:
    """List the fields of a job, for an error message."""
    return sorted(TrainingSpec.model_fields)


def label(field: str, value: Any) -> str:
    """Name a value of a field. Two complete values of a field share a label only if they are equal.

    A part is named by its type and every parameter that is not the default: `batch`, `group (32)`,
    `group (16 channels)`, `batch (ghost batches of 16)`, `sgd (learning_rate 0.2)`.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float():
            return f"{value:g}" if float(f"{value:g}") == value else repr(value)
        case Mapping():
            return _part_label(field, value)
        case _:
            return json.dumps(value, separators=(",", ":"))


def complete(field: str, value: Any) -> Any:
    """Fill the defaults of a part into a value of a grid, so that its label is the one in the results.

    A value that is not an object, or that no job accepts, is returned unchanged.
    """
    if not isinstance(value, Mapping):
        return value
    for model in _models_of(field):
        tag = model.model_fields.get("type")
        if tag is None or value.get("type") == tag.default:
            try:
                return json.loads(model.model_validate(value).model_dump_json())
            except ValidationError:
                return value
    return value


def canonical(value: Any) -> str:
    """Encode a value as JSON such that equal values have equal texts."""
    return _CANONICAL.encode(value)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)


def _part_label(field: str, part: Mapping[str, Any]) -> str:
    kind_of_part = part.get("type")
    defaults = _defaults(field, kind_of_part if isinstance(kind_of_part, str) else None)
    kind = next((part[name] for name in _NAMES if isinstance(part.get(name), str)), field)
    shown: list[str] = []
    for name, value in part.items():
        if name == "num_groups":
            shown += [] if value is None else [f"{value}"]
        elif name == "channels_per_group":
            shown += [] if value is None else [f"{value} channels"]
        elif name == "ghost_batch_size":
            shown += [] if value is None else [f"ghost batches of {value}"]
        elif name not in _NAMES and (name not in defaults or value != defaults[name]):
            shown.append(f"{name} {label(name, value)}")
    return f"{kind} ({', '.join(shown)})" if shown else kind


_NAMES = ("type", "name", "rule")
"""The fields that name the kind of a part."""


@cache
def _defaults(field: str, kind: str | None) -> Json:
    """The defaults of a part of this type."""
    for model in _models_of(field):
        tag = model.model_fields.get("type")
        if tag is None or kind in (None, tag.default):
            defaults: Json = json.loads(model().model_dump_json())
            return defaults
    return {}


def _models_of(field: str) -> Sequence[type[BaseModel]]:
    """The models that describe a part of a job; none for a field that is not a part."""
    models: Sequence[type[BaseModel]] = (TrainingSpec,)
    for part in parts_of(field):
        models = [
            member
            for model in models
            if part in model.model_fields
            for member in _models(model.model_fields[part].annotation)
        ]
    return models


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return {kind for member in get_args(annotation) for kind in _kinds(member)}
    return {annotation}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) is Union:
        return [model for member in get_args(annotation) for model in _models(member)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for member in get_args(annotation) for model in _models(member)]
