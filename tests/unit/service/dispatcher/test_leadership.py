"""The dispatcher writes only while it is the active one."""

import ast
import inspect
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

import service.dispatcher
from service.dispatcher.leadership import Leadership, LeadershipLost
from service.store import Database, Session, leases
from service.store.tables import View
from tests.unit.service.dispatcher.conftest import no_report

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 28, tzinfo=UTC)
MODULES = sorted(Path(inspect.getfile(service.dispatcher)).parent.glob("*.py"))
DATABASE = {"database", "_database"}
READS = {"read", "listen", "url", "is_sqlite", "close"}


def other_uses_of_the_database(source: str) -> Iterator[str]:
    """Return the methods that a source calls on `database`, except those that do not write."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr not in READS:
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if name in DATABASE:
                yield f"line {node.lineno}: {name}.{node.attr}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "leadership"], ids=lambda path: path.stem)
def test_no_other_module_opens_a_transaction_that_writes(path: Path) -> None:
    source = path.read_text()
    found = list(other_uses_of_the_database(source))
    assert not found, f"{path.name} writes past Leadership.write: {found}"


def test_the_rule_sees_a_write_however_it_is_reached() -> None:
    source = "async def f(self, database):\n    database.write()\n    self._database.write()\n    a.b.database.engine\n"
    assert len(list(other_uses_of_the_database(source))) == 3
    assert not list(other_uses_of_the_database("self._database.read()\nself._leadership.write()\n"))


async def test_a_write_of_the_active_dispatcher_is_made(database: Database) -> None:
    leadership = Leadership(database, 60, no_report)
    await leadership.acquire()
    await add_a_view(leadership)
    assert await names(database) == ["a"]


async def test_a_write_of_one_that_was_replaced_is_refused_and_rolled_back(database: Database) -> None:
    first, second = Leadership(database, 60, no_report), Leadership(database, 60, no_report)
    await first.acquire()
    await first.release()
    await second.acquire()
    with pytest.raises(LeadershipLost):
        await add_a_view(first)
    assert await names(database) == []


async def test_what_fails_within_a_write_is_rolled_back_and_raised_as_it_is(database: Database) -> None:
    leadership = Leadership(database, 60, no_report)
    await leadership.acquire()
    with pytest.raises(ZeroDivisionError):
        await add_a_view(leadership, ZeroDivisionError())
    assert await names(database) == []


class Clocks:
    """The monotonic clock of a dispatcher, and the time of the day at the database, each as the test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monotonic, self.day = 1000.0, NOW
        monkeypatch.setattr(leases, "now", self._now)

    async def _now(self, session: Session) -> datetime:
        return self.day


@pytest.mark.parametrize("set_by_h", [0, -1, 1])
async def test_another_takes_over_after_a_lease_without_a_renewal_however_the_clock_is_set(
    database: Database, monkeypatch: pytest.MonkeyPatch, set_by_h: int
) -> None:
    clocks = Clocks(monkeypatch)
    first, second = Leadership(database, 60, no_report), Leadership(database, 60, no_report)
    await first.acquire()
    watch = leases.Watch(lambda: clocks.monotonic)
    clocks.day += timedelta(hours=set_by_h)
    assert not await second._take(watch)
    clocks.monotonic += 29
    assert not await second._take(watch), "one that is alive renews in this time, whatever the clock says"
    assert await first._renew_once()
    clocks.monotonic += 59
    assert not await second._take(watch)
    clocks.monotonic += 62
    assert await second._take(watch)
    with pytest.raises(LeadershipLost):
        await add_a_view(first)


async def add_a_view(leadership: Leadership, error: Exception | None = None) -> None:
    async with leadership.write() as session:
        session.add(View(id="view_1", name="a", path="/jobs", created_at=NOW))
        if error is not None:
            raise error


async def names(database: Database) -> Sequence[str]:
    async with database.read() as session:
        return (await session.scalars(select(View.name))).all()
