"""Column types that SQLite and PostgreSQL store alike."""

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Text, TypeDecorator
from sqlalchemy.sql.operators import OperatorType

from service.jobs import UNSTORABLE, Status


class UTCDateTime(TypeDecorator[datetime]):
    """A point in time, stored as UTC: SQLite stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "a time without a time zone"
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class PlainText(TypeDecorator[str]):
    """Text that both databases can store: NUL and unpaired surrogates become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class JSONObject(TypeDecorator[dict[str, Any]]):
    """A JSON value that both databases can store: strings as in `PlainText`, null for a number that is not finite."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> Any:
        return storable(value)

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> Any:
        return self.impl_instance.coerce_compared_value(op, value)


def storable(value: Any) -> Any:
    """Return a copy of `value` in which both databases can store all strings and numbers."""
    match value:
        case str():
            return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {storable(key): storable(entry) for key, entry in value.items()}
        case list() | tuple():
            return [storable(entry) for entry in value]
        case _:
            return value


class StatusText(TypeDecorator[Status]):
    """A status, stored by its name."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Status | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(str(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Status | None:
        return None if value is None else Status(value)
