"""Quantities of jobs as SQL: conditions on them, and what jobs are sorted by, on SQLite and PostgreSQL alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Select,
    String,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from service.experiments import axes
from service.experiments.quantities import Condition, Quantity
from service.store.tables import Attempt, Job, JobLabel, MetricSummary
from worker.metrics import OutcomeMetric

_COLUMNS: dict[str, Any] = {
    "batch_size": Job.batch_size,
    "seed": Job.seed,
    "num_workers": Job.num_workers,
    "model": Job.model,
    "normalization.type": Job.normalization,
}
"""Fields that have a column of their own, with an index."""
_ADDED = axes.with_added({})
"""The defaults of fields that stored specifications of earlier releases lack."""


def conditions(query: Select[Any], wanted: Sequence[Condition]) -> Select[Any]:
    """Add conditions to a query of jobs. Several labels of one quantity mean any of them."""
    labels: dict[Quantity, list[str]] = {}
    for one in wanted:
        if one.operator == ":":
            labels.setdefault(one.quantity, []).append(one.value)
        else:
            query = query.where(_compared(one))
    for quantity, values in labels.items():
        query = query.where(_any_of(quantity, values))
    return query


def value_of(quantity: Quantity) -> ColumnElement[Any]:
    """Return the value by which jobs are sorted: a number or a text, null for a job without it."""
    match quantity.kind:
        case "metric":
            return _metric(quantity)
        case "duration":
            return _duration()
        case "label":
            of_job = select(JobLabel.value).where(JobLabel.job_id == Job.id, JobLabel.key == quantity.key)
            return of_job.scalar_subquery()
    if quantity.key in _COLUMNS:
        column: ColumnElement[Any] = _COLUMNS[quantity.key]
        return column
    return _with_added(quantity, _Leaf(Job.spec, quantity.key))


def _with_added(quantity: Quantity, leaf: "_Leaf") -> ColumnElement[Any]:
    value = leaf.number if quantity.is_number else leaf.text
    default = axes.read(_ADDED, quantity.key)
    if default is None:
        return value
    missing = _Leaf(Job.spec, axes.parts_of(quantity.key)[0]).kind.is_(None)
    return case((missing, literal(default, Double if quantity.is_number else String)), else_=value)


def _metric(quantity: Quantity) -> ColumnElement[float]:
    if quantity.key not in get_args(OutcomeMetric):
        return _Leaf(Job.summary, f"{quantity.key}.{quantity.part}").number
    column = MetricSummary.best if quantity.part == "best" else MetricSummary.last
    query = select(column).where(MetricSummary.job_id == Job.id, MetricSummary.name == quantity.key)
    return query.scalar_subquery()


def _duration() -> ColumnElement[float]:
    """The seconds of the attempts that have ended: that of a running one differs from page to page."""
    ran = func.sum(_seconds(Attempt.started_at, Attempt.ended_at))
    return select(ran).where(Attempt.job_id == Job.id, Attempt.ended_at.is_not(None)).scalar_subquery()


def _compared(one: Condition) -> ColumnElement[bool]:
    assert one.number is not None
    value, number = value_of(one.quantity), _literal(one.number)
    match one.operator:
        case "<":
            return value < number
        case "<=":
            return value <= number
        case ">":
            return value > number
        case _:
            return value >= number


def _any_of(quantity: Quantity, values: Sequence[str]) -> ColumnElement[bool]:
    if quantity.kind == "label":
        labelled = select(JobLabel.job_id).where(JobLabel.key == quantity.key, JobLabel.value.in_(values))
        return Job.id.in_(labelled)
    column = _COLUMNS.get(quantity.key)
    found: list[ColumnElement[bool]] = []
    for one in (Condition(quantity, ":", value) for value in values):
        if column is None:
            found.append(_is(one, _Leaf(Job.spec, quantity.key)))
        elif not quantity.is_number:
            found.append(column == one.value)
        elif one.number is not None:
            found.append(column == _literal(one.number))
    return or_(false(), *found)


def _is(one: Condition, leaf: "_Leaf") -> ColumnElement[bool]:
    """Whether a field has the value of a label, as `axes.label` names it."""
    field = one.quantity.key
    matches: list[ColumnElement[bool]] = [leaf.kind.is_not(None) & (leaf.text == one.value)]
    if one.number is not None:
        matches.append(leaf.number == _literal(one.number))
    if one.value == "null":
        matches.append(leaf.text.is_(None))
    first = axes.parts_of(field)[0]
    if first not in _ADDED:
        return or_(*matches)
    missing = _Leaf(Job.spec, first).kind.is_(None)
    default = literal(axes.label(field, axes.read(_ADDED, field)) == one.value)
    return or_(and_(missing, default), and_(~missing, or_(*matches)))


def _literal(number: float) -> ColumnElement[Any]:
    return literal(number, BigInteger if isinstance(number, int) else Double)


@dataclass(frozen=True)
class _Leaf:
    """A value within a JSON column."""

    column: Any
    path: str

    @property
    def kind(self) -> "_JSONKind":
        """The kind of the value as the database names it, null if there is none."""
        return _JSONKind(self.column, literal(self.path, String))

    @property
    def text(self) -> ColumnElement[str]:
        """The value as text, as JSON writes it without spaces; null for null."""
        value = cast(self.column[axes.parts_of(self.path)].as_string(), String)
        texts = {"true": "true", "false": "false"}
        return case(*((self.kind == kind, text) for kind, text in texts.items()), else_=func.replace(value, ", ", ","))

    @property
    def number(self) -> ColumnElement[float]:
        """The value as a number, null for another kind of value."""
        value = cast(self.column[axes.parts_of(self.path)].as_string(), Double)
        return case((self.kind.in_(("number", "integer", "real")), value))


class _JSONKind(FunctionElement[str]):
    """`json_type` of SQLite, `json_typeof` of PostgreSQL."""

    type = String()
    inherit_cache = True


@compiles(_JSONKind, "sqlite")
def _kind_on_sqlite(element: _JSONKind, compiler: SQLCompiler, **options: Any) -> str:
    column, path = (compiler.process(one, **options) for one in element.clauses)
    return f"json_type({column}, '$.' || {path})"


@compiles(_JSONKind, "postgresql")
def _kind_on_postgresql(element: _JSONKind, compiler: SQLCompiler, **options: Any) -> str:
    column, path = (compiler.process(one, **options) for one in element.clauses)
    return f"json_typeof({column} #> string_to_array({path}, '.'))"


class _seconds(FunctionElement[float]):
    """The seconds between two points in time."""

    type = Double()
    inherit_cache = True


@compiles(_seconds, "sqlite")
def _seconds_on_sqlite(element: _seconds, compiler: SQLCompiler, **options: Any) -> str:
    first, last = (compiler.process(one, **options) for one in element.clauses)
    return f"((julianday({last}) - julianday({first})) * 86400.0)"


@compiles(_seconds, "postgresql")
def _seconds_on_postgresql(element: _seconds, compiler: SQLCompiler, **options: Any) -> str:
    first, last = (compiler.process(one, **options) for one in element.clauses)
    return f"extract(epoch from {last} - {first})::double precision"
