"""Ids sort by the order of their creation, whatever the clock says."""

import re
import time

import pytest

from service.store import identifiers
from service.store.identifiers import new_id


@pytest.fixture(autouse=True)
def _nothing_was_created_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifiers, "_last", 0)


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: int(seconds * 1e9))


def test_ids_have_26_characters_of_the_time_and_of_chance() -> None:
    first, second = new_id("job"), new_id("job")
    assert re.fullmatch("job_[0-7][0-9a-hjkmnp-tv-z]{25}", first)
    assert first != second


def test_ids_of_one_process_ascend_while_the_clock_stands_still_and_when_it_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    created = []
    for seconds in (1e9, 1e9, 1e9, 1e9 - 3600, 1e9 - 3599, 1e9 + 1, 0):
        set_clock(monkeypatch, seconds)
        created.append(new_id("job"))
    assert created == sorted(set(created))


def test_an_id_follows_the_last_one_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    set_clock(monkeypatch, 1e9)
    other = new_id("job")
    monkeypatch.setattr(identifiers, "_last", 0)
    set_clock(monkeypatch, 1e9 - 3600)
    assert new_id("job", after=other) > other


@pytest.mark.parametrize("imported", ["job_7" + 25 * "z", "job_" + 26 * "z", "job_1", "zzz_a", ""])
def test_an_id_that_cannot_be_followed_does_not_disturb(imported: str) -> None:
    before = new_id("job")
    after = new_id("job", after=imported)
    assert re.fullmatch("job_[0-7][0-9a-z]{25}", after)
    assert after > before
