"""The normalizations that a job may name: those that the other modules of this package define."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

import worker.normalizations
from worker.normalizations.normalization import NormalizationSpec

_DEFINE_NONE = {"evonorm", "grouping", "layers", "normalization", "registry", "weight_standardization"}
"""The modules of the package that define no normalization."""


def _discover() -> Iterator[type[NormalizationSpec]]:
    for module in iter_modules(worker.normalizations.__path__):
        if module.name not in _DEFINE_NONE:
            name = f"{worker.normalizations.__name__}.{module.name}"
            [found] = [
                member
                for member in vars(import_module(name)).values()
                if isinstance(member, type) and issubclass(member, NormalizationSpec) and member.__module__ == name
            ]
            assert found.model_fields["type"].default == module.name, f"{name} defines {found.__name__}"
            yield found


NORMALIZATIONS = {specification.model_fields["type"].default: specification for specification in _discover()}
"""The specification of each normalization, by its name, in alphabetical order."""

if TYPE_CHECKING:
    Normalization = NormalizationSpec
else:
    Normalization = Annotated[Union[tuple(NORMALIZATIONS.values())], Field(discriminator="type")]  # noqa: UP007 - of a tuple
