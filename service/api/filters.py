"""The query parameters that filter jobs."""

import re
from datetime import UTC
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from service.errors import Unprocessable
from service.experiments import axes
from service.experiments.quantities import ACCEPTED, Condition
from service.jobs import Status
from service.store.listing import JobFilter
from worker.normalizations.registry import NORMALIZATIONS


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "names, labels and ids cannot contain U+0000")
    return text


def _not_a_number(given: Any) -> Any:
    if isinstance(given, str) and re.fullmatch(r"\s*[-+]?[\d.]+([eE][-+]?\d+)?\s*", given):
        raise PydanticCustomError("time", "give a date, a time and a zone, as in 2026-01-31T12:00:00Z")
    return given


def _in_utc(time: AwareDatetime) -> AwareDatetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise PydanticCustomError("time", "the time lies outside the years 1 to 9999 of UTC") from error


Text = Annotated[str, Field(max_length=200), AfterValidator(_no_nul)]


def part_of_id(noun: str) -> Any:
    """A query parameter that selects by a part of the id."""
    return Field(
        default=None,
        description=f"beginning or end of the id, with or without `{noun}_`; ids of the same time begin alike",
    )


class WhereQuery(BaseModel):
    """Conditions on any quantity of a job."""

    model_config = ConfigDict(extra="forbid")

    where: list[Annotated[Text, Field(pattern="[:<>]")]] = Field(
        default_factory=list,
        description="batch_size:8 or labels.study:paper selects jobs with this label of the value, "
        "test_error.best<0.3 those with such a number (also <=, > and >=). Several labels of one quantity mean any of "
        f"them, other conditions all of them. A quantity is {ACCEPTED}",
    )

    def conditions(self) -> list[Condition]:
        """Return all conditions. Raises `Unprocessable`, which says what is accepted."""
        try:
            return [Condition.parse(entry) for entry in self.where]
        except ValueError as error:
            raise Unprocessable(str(error)) from error

    def selecting(self) -> tuple[Condition, ...]:
        """Return the conditions that the store evaluates. Raises `Unprocessable`."""
        found = tuple(self.conditions())
        for one in found:
            if one.quantity.kind == "field" and (parts := axes.parts(one.quantity.key)):
                raise Unprocessable(
                    f"where names {one.quantity.name}, which has parts: give one of {', '.join(parts)}."
                )
        return found


class JobFilterQuery(WhereQuery):
    """Filters of jobs. Several values of one parameter mean any of them; several parameters, all of them."""

    status: list[Status] = Field(default_factory=list)
    normalization: list[Text] = Field(default_factory=list, description=", ".join(NORMALIZATIONS))
    batch_size: list[Annotated[int, Field(ge=1, lt=2**31)]] = Field(default_factory=list)
    model: list[Text] = Field(default_factory=list)
    seed: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default_factory=list)
    submitted_by: list[Text] = Field(default_factory=list, description="names of the tokens that submitted them")
    experiment: Text | None = None
    label: list[Annotated[Text, Field(pattern="^[^:]+:")]] = Field(
        default_factory=list,
        description="key:value; several values of one key mean any of them, several keys all of them",
    )
    created_after: Annotated[AwareDatetime, BeforeValidator(_not_a_number), AfterValidator(_in_utc)] | None = None
    search: Text | None = Field(default=None, description="part of the name, in any case")

    def job_filter(self) -> JobFilter:
        """Return the filter in the form of the store."""
        labels: dict[str, list[str]] = {}
        for label in self.label:
            key, _, value = label.partition(":")
            labels.setdefault(key, []).append(value)
        return JobFilter(
            status=tuple(self.status),
            normalization=tuple(self.normalization),
            batch_size=tuple(self.batch_size),
            model=tuple(self.model),
            seed=tuple(self.seed),
            submitted_by=tuple(self.submitted_by),
            experiment=self.experiment,
            labels={key: tuple(values) for key, values in labels.items()},
            created_after=self.created_after,
            search=self.search,
            where=self.selecting(),
        )
