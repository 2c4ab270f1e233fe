"""The JSON of an axis: a field of a job, and its values with their labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from service.experiments import axes


class AxisValue(BaseModel):
    """One value of an axis."""

    label: str = Field(description="its unique name in cells and comparisons")
    value: Any = Field(description="the value in the spec")


class AxisView(BaseModel):
    """A field of a job, and its values in the order they are shown."""

    field: str
    values: list[AxisValue]


def grid_axes(grid: Mapping[str, Sequence[Any]]) -> list[AxisView]:
    """The axes of a grid. Each value is labelled as it will be in the results, with its defaults filled in."""
    return [
        AxisView(
            field=field,
            values=[AxisValue(label=axes.label(field, axes.complete(field, value)), value=value) for value in values],
        )
        for field, values in grid.items()
    ]
