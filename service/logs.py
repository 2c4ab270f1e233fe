"""The service's own log: one JSON object a line, with the ids of the request, the job and the attempt it is about."""

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
    """Every line logged within carries these ids: `request`, `job`, `attempt`."""
    token = _ids.set((_ids.get() or {}) | ids)
    try:
        yield
    finally:
        _ids.reset(token)


class JSONLines(logging.Formatter):
    """time, level, logger and message, the ids, what was passed as `extra`, and the traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
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
    """Send the log of the whole process to `stream` (standard error), replacing what was set up before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
