"""Which implementation computes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal, get_args

__all__ = ["BACKENDS", "Backend", "backend", "selected"]

Backend = Literal["auto", "kernels", "reference"]

BACKENDS = get_args(Backend)
_selected: list[str] = []


def selected() -> str:
    """The backend in force: of the innermost `with backend(...)`, else of `GN_BACKEND`, else `"auto"`."""
    return _selected[-1] if _selected else _default()


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Within the block, compute with the fused kernels where there are some, or always with the `"reference"`.

    On the CPU, `"auto"` lets an extension of torch call them where there is one, and `"kernels"` has Python do that.

    It holds for the whole process, as backward passes run on threads of their own. The environment variable
    `GN_BACKEND` sets the same from outside.

    Raises:
        ValueError: the name is not known.
    """
    _selected.append(_checked(name))
    try:
        yield
    finally:
        _selected.pop()


@cache
def _default() -> str:
    return _checked(os.environ.get("GN_BACKEND", "auto"))


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    return name
