"""Children that run and do not respond are found, and no others."""

from typing import Any

import pytest

from service.local.hangs import HANGS_S, MOST_PATIENCE, RECOVERED_S, STARTS_S, Hangs

PIDS = {"ray": 1, "dispatcher": 2, "api": 3}
OK, NOT_OK = {"ok": True}, {"ok": False}
READY = {"status": "ready", "checks": {"database": OK, "dispatcher": OK}}
NO_DATABASE = {"status": "unavailable", "checks": {"database": NOT_OK, "dispatcher": NOT_OK}}
LATE = {"status": "degraded", "checks": {"database": OK, "dispatcher": NOT_OK}}
NO_RAY = {"status": "degraded", "checks": {"database": OK, "dispatcher": OK}}


class Watched:
    """The children, watched by a clock that the test moves."""

    def __init__(self) -> None:
        self.now, self.pids = 0.0, dict(PIDS)
        self.hangs = Hangs(lambda: self.now)

    def answer(self, readiness: dict[str, Any] | None, seconds: float = 0) -> list[str]:
        """Return who is found to hang after an answer that stays the same for some seconds."""
        found = []
        for _ in range(int(seconds) + 1):
            self.hangs.look(self.pids, readiness)
            found += [name for name, pid in self.pids.items() if self.hangs.found(name, pid)]
            self.now += 1
        return found


@pytest.mark.parametrize(("readiness", "name"), [(None, "api"), (LATE, "dispatcher"), (NO_RAY, "ray")])
def test_a_child_that_no_longer_works_is_found_once(readiness: dict[str, Any] | None, name: str) -> None:
    watched = Watched()
    assert watched.answer(READY) == []
    assert watched.answer(readiness, HANGS_S[name] - 1) == []
    assert watched.answer(readiness, 1) == [name]
    assert watched.answer(readiness, HANGS_S[name] - 2) == []


@pytest.mark.parametrize(("readiness", "name"), [(None, "api"), (LATE, "dispatcher"), (NO_RAY, "ray")])
def test_a_child_that_starts_has_more_time(readiness: dict[str, Any] | None, name: str) -> None:
    watched = Watched()
    assert watched.answer(READY) == []
    watched.pids[name] += 10
    assert watched.answer(readiness, STARTS_S) == []
    assert watched.answer(readiness, 2) == [name]


def test_the_limit_doubles_with_each_hang_until_a_child_has_worked_for_long() -> None:
    watched = Watched()

    def limit() -> int:
        """Return for how many seconds a new dispatcher may not work, and replace it."""
        watched.pids["dispatcher"] += 10
        assert watched.answer(READY) == []
        for seconds in range(10_000):
            if watched.answer(LATE):
                return seconds
        raise AssertionError("it was not found")

    first = limit()
    assert [limit() / first for _ in range(6)] == [2, 4, 8, MOST_PATIENCE, MOST_PATIENCE, MOST_PATIENCE]
    watched.answer(READY, RECOVERED_S)
    assert limit() == first


def test_a_child_that_works_again_is_not_found() -> None:
    watched = Watched()
    for _ in range(100):
        assert watched.answer(READY) == []
        assert watched.answer(LATE, HANGS_S["dispatcher"] - 1) == []


@pytest.mark.parametrize("readiness", [NO_DATABASE, {"status": "unavailable", "checks": {}}])
def test_nobody_is_blamed_for_a_database_that_does_not_answer(readiness: dict[str, Any]) -> None:
    watched = Watched()
    assert watched.answer(READY) == []
    assert watched.answer(readiness, 10 * STARTS_S) == []


def test_the_dispatcher_and_ray_are_not_blamed_for_the_api() -> None:
    watched = Watched()
    assert watched.answer(READY) == []
    assert set(watched.answer(None, 10 * STARTS_S)) == {"api"}


def test_time_in_which_the_supervisor_was_stopped_does_not_count() -> None:
    watched = Watched()
    assert watched.answer(READY) == []
    watched.now += 3600
    assert watched.answer(None, HANGS_S["api"]) == []
