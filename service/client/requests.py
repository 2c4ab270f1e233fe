"""The parts of a request: its path, its query, its headers and its JSON body, refused if they cannot be sent."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

MAX_VALUES = 1 << 20
"""A body with more values exceeds every limit of the service. References in YAML can make so many from a short file."""


class InvalidRequest(ValueError):
    """The request cannot be sent. The message names the value."""


def path_of(collection: str, *parts: str) -> str:
    """Return the path of an entry of a collection, such as `path_of("jobs", job, "cancel")`."""
    if parts[0] in ("", ".", ".."):
        raise InvalidRequest(f"the id is {parts[0]!r}: give one that the list of {collection} has")
    if not all(parts):
        raise InvalidRequest(f"there is nothing after the slash: give what the list of {collection} has there")
    return "/".join(["/v1", collection, *(quote(part, safe="", errors="replace") for part in parts)])


def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the query parameters that are not None."""
    parameters = {name: value for name, value in parameters.items() if value is not None}
    for name, value in parameters.items():
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and not _is_unicode(text):
                raise InvalidRequest(f"{name} is {text!r}, which is not valid Unicode")
    return dict(parameters)


def header(name: str, value: str, what: str = "") -> dict[str, str]:
    """Return a header; `what` explains its name in an error, which does not show the value: it may be a secret."""
    if not (value.isascii() and value.isprintable()):
        raise InvalidRequest(f"{name}{what} has characters other than printable ASCII")
    return {name: value}


def json_body(document: Any) -> bytes:
    """Encode a document as JSON."""
    try:
        _check(document, (), [], [0])
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    except InvalidRequest:
        raise
    except RecursionError as error:
        raise InvalidRequest("the request is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"the request cannot be written as JSON: {error}") from error


def _check(value: Any, path: tuple[str, ...], holders: list[int], count: list[int]) -> None:
    """Raise `InvalidRequest` for a value that JSON cannot hold. `holders` are the ids of what contains it."""
    where = f"/{'/'.join(path)}: " if path else ""
    count[0] += 1
    if count[0] > MAX_VALUES:
        raise InvalidRequest(f"the request has more than {MAX_VALUES:,} values")
    if value is None or isinstance(value, bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"{where}the value is {value}: give a finite number")
        return
    if isinstance(value, str):
        if not _is_unicode(value):
            raise InvalidRequest(f"{where}the value is {value!r}, which is not valid Unicode")
        return
    if id(value) in holders:
        raise InvalidRequest(f"{where}the value contains itself")
    entries: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        entries = value.items()
        for key in value:
            if not (isinstance(key, str | bool | int) or key is None) or (
                isinstance(key, str) and not _is_unicode(key)
            ):
                raise InvalidRequest(f"{where}the key is {key!r}: give a text")
    elif isinstance(value, list | tuple):
        entries = enumerate(value)
    else:
        raise InvalidRequest(
            f"{where}the value is {value!r}, of type {type(value).__name__}: give an object, a list, a text, a number, "
            "true, false or null"
        )
    holders.append(id(value))
    for name, entry in entries:
        _check(entry, (*path, str(name)), holders, count)
    holders.pop()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
