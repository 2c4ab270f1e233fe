"""The base of the models that people fill in."""

from collections.abc import Mapping
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails


class StrictModel(BaseModel):
    """The base of requests and of their parts. `true` is not a number, although pydantic takes it for 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, data: Any) -> Any:
        wrong: list[InitErrorDetails] = []
        for name, error in _number_fields(cls).items() if isinstance(data, Mapping) else ():
            value = data.get(name)
            if isinstance(value, bool):
                wrong.append(InitErrorDetails(type=error, loc=(name,), input=value))
            elif isinstance(value, list | tuple):
                wrong += [
                    InitErrorDetails(type=error, loc=(name, index), input=entry)
                    for index, entry in enumerate(value)
                    if isinstance(entry, bool)
                ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return data


@cache
def _number_fields(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the fields that are numbers or lists of numbers, with the type of pydantic's error for another value."""
    types = {name: _types_in(field.annotation) for name, field in model.model_fields.items()}
    return {
        name: "float_type" if float in found else "int_type"
        for name, found in types.items()
        if bool not in found and not found.isdisjoint({int, float})
    }


def _types_in(annotation: Any) -> set[type]:
    """Return the types that an annotation is made of, as `float` in `tuple[float, ...]`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return {annotation}
    return set().union(*map(_types_in, get_args(annotation)))
