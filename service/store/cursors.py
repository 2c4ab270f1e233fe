"""Cursors: the position at which a page ended."""

import base64
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from service.errors import Unprocessable
from service.store.ordering import Order, SortKey


def write_cursor(order: Order, values: Sequence[Any], row_id: str) -> str:
    """Return the cursor of the position after a row, from its sort keys and its id."""
    plain = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps([order.text, plain, row_id]).encode()).decode().rstrip("=")


def read_cursor(cursor: str, order: Order) -> tuple[Sequence[Any], str]:
    """Return the arguments of `write_cursor`. Raises `Unprocessable` for another text, or a cursor of another order."""
    try:
        made_for, values, row_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if made_for != order.text or not isinstance(row_id, str) or "\0" in row_id:
            raise ValueError
        return [_value(key, value) for key, value in zip(order.keys, values, strict=True)], row_id
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Unprocessable(f"cursor is {cursor!r}: give next_cursor of a page with the same sort.") from error


def _value(key: SortKey, value: Any) -> Any:
    if key.metric is not None:
        if value is not None and not (type(value) in (int, float) and math.isfinite(value)):
            raise ValueError
        return None if value is None else float(value)
    if key.quantity is not None:
        if value is None:
            return None
        if key.quantity.is_number:
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError
            return float(value)
        if not isinstance(value, str) or "\0" in value:
            raise ValueError
        return value
    if key.name.endswith("_at"):
        return datetime.fromisoformat(value).astimezone(UTC)
    if key.name in ("batch_size", "priority", "seed"):
        if type(value) is not int or abs(value) >= (2**63 if key.name == "seed" else 2**31):
            raise ValueError
    elif not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value
