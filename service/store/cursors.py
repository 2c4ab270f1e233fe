"""Cursors: where a page ended, for the next one to go on from."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

from service.errors import Unprocessable


def write_cursor(sort: str, value: Any, row_id: str) -> str:
    """The place behind a row: the value it is sorted by, and its id."""
    plain = value.isoformat() if isinstance(value, datetime) else value
    return base64.urlsafe_b64encode(json.dumps([sort, plain, row_id]).encode()).decode().rstrip("=")


def read_cursor(cursor: str, sort: str) -> tuple[Any, str]:
    """What `write_cursor` was given. Raises `Unprocessable` for anything else, and for a cursor of another order."""
    try:
        made_for, value, row_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        name = sort.removeprefix("-")
        if made_for != sort or not isinstance(row_id, str) or "\0" in row_id:
            raise ValueError
        if name.endswith("_at"):
            value = datetime.fromisoformat(value).astimezone(UTC)
        elif name in ("batch_size", "priority"):
            if type(value) is not int or abs(value) >= 2**31:
                raise ValueError
        elif not isinstance(value, str) or "\0" in value:
            raise ValueError
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Unprocessable(f"cursor is {cursor!r}: give next_cursor of a page with the same sort.") from error
    return value, row_id
