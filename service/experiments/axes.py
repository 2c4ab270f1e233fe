"""Axes: the fields of a job along which an experiment varies, and how their values are shown.

A field of a part is named with a dot, as in `optimizer.learning_rate`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from worker.spec import TrainingSpec

Json = dict[str, Any]


def parts_of(field: str) -> tuple[str, ...]:
    """`optimizer.learning_rate` as its parts."""
    return tuple(field.split("."))


def place(body: Json, field: str, value: Any) -> None:
    """Set a field in the body of a job; a part that is not an object, or not there, becomes one."""
    *holders, name = parts_of(field)
    for holder in holders:
        part = body.get(holder)
        body[holder] = dict(part) if isinstance(part, Mapping) else {}
        body = body[holder]
    body[name] = value


def read(spec: Mapping[str, Any], field: str) -> Any:
    """The value of a field of a stored spec; None where it has none, as `normalization.num_groups` of batch."""
    value: Any = spec
    for part in parts_of(field):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def is_field(field: str) -> bool:
    """Whether some job can have this field."""
    models: Sequence[type[BaseModel]] = (TrainingSpec,)
    for part in parts_of(field):
        holders = [model for model in models if part in model.model_fields]
        if not holders:
            return False
        models = [member for model in holders for member in _models(model.model_fields[part].annotation)]
    return True


def fields() -> list[str]:
    """The fields of a job, for an error that lists them."""
    return sorted(TrainingSpec.model_fields)


def label(field: str, value: Any) -> str:
    """A value as it is shown and as it is known: two values of one field have one label only if they are equal.

    A part is named by its type and by what is not its default: `group (32)`, `group (16 channels)`, `batch`,
    `sgd (learning_rate 0.2)`.
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


def canonical(value: Any) -> str:
    """One text for equal values, to tell whether two are."""
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
        elif name not in _NAMES and (name not in defaults or value != defaults[name]):
            shown.append(f"{name} {label(name, value)}")
    return f"{kind} ({', '.join(shown)})" if shown else kind


_NAMES = ("type", "name", "rule")
"""The fields that name what a part is."""


@cache
def _defaults(field: str, kind: str | None) -> Json:
    """What the part of this type would be if nothing but its type were given."""
    models: Sequence[type[BaseModel]] = (TrainingSpec,)
    for part in parts_of(field):
        models = [
            member
            for model in models
            if part in model.model_fields
            for member in _models(model.model_fields[part].annotation)
        ]
    for model in models:
        tag = model.model_fields.get("type")
        if tag is None or kind in (None, tag.default):
            defaults: Json = json.loads(model().model_dump_json())
            return defaults
    return {}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) is Union:
        return [model for member in get_args(annotation) for model in _models(member)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for member in get_args(annotation) for model in _models(member)]
