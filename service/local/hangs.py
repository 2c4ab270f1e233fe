"""Children that run and do not respond: deadlocked, or waiting for something that never comes.

They are found by `/readyz`: the api hangs if it does not answer, the dispatcher if its heartbeat is missing, and Ray if
the dispatcher reports that Ray does not answer.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

HANGS_S = {"api": 30.0, "dispatcher": 10.0, "ray": 60.0}
"""A child that worked and then does not for this many seconds hangs. The lease of the dispatcher comes on top."""
STARTS_S = 180.0
"""The same for a child that has not worked since its start."""
MOST_PATIENCE = 16
"""Factor by which these times grow at most. They double with each child of a name that hung, as those of an overloaded
machine are slow, and to start another one loads it further."""
RECOVERED_S = 600.0
"""A child that worked for this long without a pause ends that."""
STALL_S = 30.0
"""Without a look for this many seconds, the supervisor itself was stopped, and all times begin anew."""


@dataclass
class _Child:
    pid: int
    since: float
    """When it last worked, or when it was not known whether it does."""
    paused_at: float
    """When it last did not work."""
    worked: bool = False


class Hangs:
    """Watches how long each child has not worked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._children: dict[str, _Child] = {}
        self._patience: dict[str, int] = {}
        self._looked_at = clock()

    def look(self, pids: Mapping[str, int], readiness: Mapping[str, Any] | None) -> None:
        """Take note of an answer.

        Args:
            pids: The children that ran before the answer, by name.
            readiness: The answer of `/readyz`, None if there was none.
        """
        now = self._clock()
        stalled, self._looked_at = now - self._looked_at > STALL_S, now
        works = _works(readiness)
        for name, pid in pids.items():
            child = self._children.get(name)
            if child is None or child.pid != pid:
                child = self._children[name] = _Child(pid, since=now, paused_at=now)
            if works.get(name) is not False or stalled:
                child.since = now
            else:
                child.paused_at = now
            if now - child.paused_at > RECOVERED_S:
                self._patience.pop(name, None)
            child.worked = child.worked or works.get(name) is True

    def found(self, name: str, pid: int) -> bool:
        """Whether a child hangs. That is said once."""
        child = self._children.get(name)
        if child is None or child.pid != pid:
            return False
        patience = self._patience.get(name, 1)
        if self._looked_at - child.since <= patience * (HANGS_S[name] if child.worked else STARTS_S):
            return False
        child.since = self._looked_at
        self._patience[name] = min(2 * patience, MOST_PATIENCE)
        return True


def _works(readiness: Mapping[str, Any] | None) -> Mapping[str, bool]:
    """Whether each child works, as far as an answer says it."""
    if readiness is None:
        return {"api": False}
    checks = readiness.get("checks", {})
    if not checks.get("database", {}).get("ok"):
        return {"api": True}
    if not checks.get("dispatcher", {}).get("ok"):
        return {"api": True, "dispatcher": False}
    return {"api": True, "dispatcher": True, "ray": readiness.get("status") == "ready"}
