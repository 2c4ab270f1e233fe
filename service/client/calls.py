"""Requests as values: what is sent and how the answer is read, for the blocking and the asynchronous client alike."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from service.client.records import Records
from service.client.requests import given

Json = dict[str, Any]
Answer = TypeVar("Answer")


def _entries(document: Json) -> list[Json]:
    return cast(list[Json], document["data"])


def _document(document: Json) -> Json:
    return document


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """A request whose answer is a JSON object. `options` are those of `httpx2.Client.request`."""

    method: str
    path: str
    read: Callable[[Json], Answer]
    options: Mapping[str, Any] = field(default_factory=dict)


def call(method: str, path: str, **options: Any) -> Call[Json]:
    """Return a request that is answered by one object."""
    return Call(method, path, _document, options)


def listed(path: str, **options: Any) -> Call[Records]:
    """Return a request that is answered by a list in one piece."""
    return Call("GET", path, lambda document: Records(_entries(document)), options)


class Listing:
    """A list that is answered page after page: the next request, and how many entries are still wanted.

    Args:
        path: Of the list.
        cursor: The parameter that names the next page.
        filters: The other parameters; those that are None are left out.
        most: The number of entries that are wanted; None for all.
    """

    def __init__(self, path: str, cursor: str, filters: Mapping[str, Any], most: int | None = None) -> None:
        self.path = path
        self.params = given(filters)
        self._cursor = cursor
        self._left = math.inf if most is None else most

    @property
    def done(self) -> bool:
        """Whether no further page is needed."""
        return self._left <= 0

    def take(self, page: Json) -> list[Json]:
        """Return the wanted entries of a page, and go on to the next one."""
        entries = _entries(page)
        wanted = entries if len(entries) <= self._left else entries[: int(self._left)]
        self._left -= len(wanted)
        if page.get("next_cursor") is None:
            self._left = 0
        self.params[self._cursor] = page.get("next_cursor")
        return wanted
