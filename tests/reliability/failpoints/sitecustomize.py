"""Failpoints around every commit and every remote call of the service; Python imports this module at its start.

NORMLAB_PLACES is a file to which each place is appended once per process; NORMLAB_ARMED is a file with a place and
"before" or "after": the first process that comes there removes it and kills itself.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

WRAPPERS = {("dispatcher/leadership.py", "write")}
"""Functions in which others write, by path and name: a place is where these are called."""
_seen: set[str] = set()


def _place(kind: str) -> str:
    """Return the innermost line of the project outside of this module and of the database, as file:line."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code: CodeType = frame.f_code
        _, found, path = code.co_filename.rpartition("/service/")
        if found and path != "store/database.py" and (path, code.co_name) not in WRAPPERS:
            return f"{kind}:service/{path}:{code.co_name}:{frame.f_lineno}"
        frame = frame.f_back
    return f"{kind}:unknown"


def _pass(place: str, when: str) -> None:
    armed = Path(os.environ["NORMLAB_ARMED"])
    if place not in _seen:
        _seen.add(place)
        with Path(os.environ["NORMLAB_PLACES"]).open("a", encoding="utf-8") as file:
            file.write(f"{place}\n")
    try:
        if armed.read_text(encoding="utf-8") != f"{place} {when}":
            return
        armed.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _patch_database(module: ModuleType) -> None:
    write: Callable[[Any], AbstractAsyncContextManager[Any]] = module.Database.write

    @asynccontextmanager
    async def failing(self: Any) -> AsyncIterator[Any]:
        place = _place("commit")
        async with write(self) as session:
            yield session
            _pass(place, "before")
        _pass(place, "after")

    module.Database.write = failing


def _patch_cluster(module: ModuleType) -> None:
    worker = module.Worker
    answer = worker._answer

    async def failing(self: Any, call: Any, timeout_s: float | None) -> Any:
        place = _place("call")
        _pass(place, "before")
        answered = await answer(self, call, timeout_s)
        _pass(place, "after")
        return answered

    worker._answer = failing


PATCHES = {"service.store.database": _patch_database, "service.dispatcher.cluster": _patch_cluster}


class _Loader(importlib.abc.Loader):
    """Loads a module as another loader does, and patches it."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        PATCHES[module.__name__](module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


if "NORMLAB_ARMED" in os.environ:
    sys.meta_path.insert(0, _Finder())
