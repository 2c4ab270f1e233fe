"""The log of the service: one JSON object per line, with the ids of its request, job and attempt."""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

_ids: ContextVar[dict[str, str] | None] = ContextVar("normlab_log_ids", default=None)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


@contextmanager
def about(**ids: str) -> Iterator[None]:
    """Add ids (`request`, `job`, `attempt`) to every line that is logged within the context."""
    token = _ids.set((_ids.get() or {}) | ids)
    try:
        yield
    finally:
        _ids.reset(token)


class JSONLines(logging.Formatter):
    """Formats a record as time, level, logger, message, ids, the fields of `extra`, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _ids.get() or {}
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name[0] != "_"}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(line, default=str)


def configure(level: str, stream: TextIO | None = None) -> None:
    """Write the log of the whole process to `stream`, by default standard error. Replaces every other handler.

    Other packages log from INFO on, whatever the level: at DEBUG they write requests with their credentials.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(level="INFO" if level == "DEBUG" else level, handlers=[handler], force=True)
    logging.getLogger("service").setLevel(level)
