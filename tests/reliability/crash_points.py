"""The API and the dispatcher are killed before and after every commit and every call of a worker.

The places are found, not chosen: in the source, as each `async with ... .write()` and each `self._answer(...)`; and in
a run of each part, in which `failpoints/sitecustomize.py` records the places that the processes of the service come to.
Then each place kills its process once before and once after, in a part that comes there, and the part must end as
without a crash. Places of the source that no part comes to are named.
"""

import ast
import base64
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import service
from service.local import processes
from tests.acceptance.whole_service import Service, running_service
from tests.reliability.crash_parts import PARTS, receiver
from tests.reliability.report import promise, table

FAILPOINTS = Path(__file__).parent / "failpoints"
SOURCE = Path(service.__file__).parent
TOKEN = "crash-points-token"
SETTINGS: dict[str, Any] = {
    "api_tokens": f"me:{TOKEN}",
    "webhook_secret": f"whsec_{base64.b64encode(bytes(32)).decode()}",
    "retention": "best-and-last",
    "retention_days": 1e-4,
}
STEADY_S = 1.0
"""A child that ran for this time is not one that ends right after its start, of which the supervisor accepts five."""


def run(folder: Path, *, short: bool) -> Iterator[str]:
    """Yield the table of places, and whether all was whole after each crash."""
    record, armed = folder / "places", folder / "armed"
    environment = {"NORMLAB_PLACES": str(record), "NORMLAB_ARMED": str(armed), "PYTHONPATH": str(FAILPOINTS)}
    environment["NORMLAB_TOKEN"] = TOKEN
    os.environ.update(environment)
    try:
        with (
            patch.object(processes, "STEADY_S", STEADY_S),
            receiver() as url,
            running_service(folder / "home", webhook_url=url, **SETTINGS) as running,
        ):
            expected: dict[str, Any] = {}
            parts: dict[str, str] = {}
            for part, act in list(PARTS.items())[: 1 if short else None]:
                expected[part] = act(running)
                for place in set(record.read_text(encoding="utf-8").split()) - parts.keys():
                    parts[place] = part
            points = [(place, when) for place in sorted(parts) for when in ("before", "after")]
            rows = []
            for number, (place, when) in enumerate(points[:4] if short else points):
                print(f"{number + 1} of {len(points)}: {place}, {when}", file=sys.stderr, flush=True)
                rows.append(_crash(running, armed, place, when, parts[place], expected[parts[place]]))
    finally:
        for name in environment:
            del os.environ[name]
    reached = [row for row in rows if row is not None]
    yield f"{len(parts)} places, {len(points)} crash points; {len(reached)} of {len(rows)} were reached\n"
    yield table(("place", "killed", "part", "s until the end of the part"), reached)
    if missing := sorted(in_source() - parts.keys()):
        yield "No part comes to:\n\n" + "".join(f"- {place}\n" for place in missing)


def in_source() -> set[str]:
    """Return all places of the source, as `failpoints/sitecustomize.py` names them."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE.parent).as_posix()
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
                continue
            for node in _own(function):
                if isinstance(node, ast.AsyncWith) and any(_calls(item.context_expr, "write") for item in node.items):
                    found.add(f"commit:{name}:{function.name}:{node.lineno}")
                elif isinstance(node, ast.Await) and _calls(node.value, "_answer"):
                    found.add(f"call:{name}:{function.name}:{node.lineno}")
    return {place for place in found if not place.startswith("commit:service/dispatcher/leadership.py:write:")}


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function without those of functions in it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef | ast.Lambda):
            yield node
            yield from _own(node)


def _calls(expression: ast.AST, method: str) -> bool:
    return (
        isinstance(expression, ast.Call)
        and isinstance(expression.func, ast.Attribute)
        and expression.func.attr == method
    )


def _crash(
    running: Service, armed: Path, place: str, when: str, part: str, expected: Any
) -> tuple[str, str, str, str] | None:
    """Kill the process that comes to a place. Returns a row of the table; None if none came."""
    armed.write_text(f"{place} {when}", encoding="utf-8")
    began = time.monotonic()
    outcome = PARTS[part](running)
    promise(outcome == expected, f"{place}, {when}: {part} ended with {outcome}, and without a crash with {expected}")
    took = time.monotonic() - began
    promise(running.supervisor.error is None, f"{place}, {when}: {running.supervisor.error}")
    if armed.exists():
        armed.unlink()
        return None
    return place, when, part, f"{took:.1f}"
