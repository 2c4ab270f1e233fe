"""An import is stored in slices: other writers take turns with it, and its rows are hidden until the last one."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict, NotFound
from service.experiments.bundle import Bundle
from service.experiments.bundle.lines import JobLine
from service.store import Database, bundles, events, experiments, imports, jobs, listing
from service.store.listing import JobFilter
from service.store.tables import Import, Job, Metric
from tests.unit.service.store.acting import create
from tests.unit.service.store.test_bundles import everything, experiment, export

pytestmark = pytest.mark.anyio

__all__ = ["experiment"]


@pytest.fixture
async def bundle(
    database: Database, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bundle]:
    """The bundle of an experiment that is not there any more; each of its lines is a slice."""
    path = await export(database, experiment, tmp_path)
    async with database.write() as session:
        await experiments.delete(session, experiment)
    monkeypatch.setattr(bundles, "CHUNK", 1)
    with Bundle(path) as bundle:
        yield bundle


async def visible(database: Database, job_ids: list[str]) -> list[Any]:
    """Return everything that a reader finds of these jobs."""
    found: list[Any] = []
    async with database.read() as session:
        page, _ = await listing.page(session, JobFilter())
        found += [job for job in page if job.id in job_ids]
        found += await jobs.of_ids(session, job_ids)
        found += [event for event in await events.after(session, 0) if event.job_id in job_ids]
        for job_id in job_ids:
            try:
                found.append(await jobs.get(session, job_id))
            except NotFound:
                continue
    return found


async def stored(database: Database) -> tuple[int, int, int]:
    """Return the number of rows of jobs, metrics and imports."""
    async with database.read() as session:
        jobs, metrics, open_ = [
            await session.scalar(select(func.count()).select_from(table)) or 0 for table in (Job, Metric, Import)
        ]
    return jobs, metrics, open_


def interrupt(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Raise an error at the first row of metrics."""
    insert = bundles._insert

    async def interrupted(session: AsyncSession, rows: Any) -> None:
        if rows[0] is Metric:
            raise error
        await insert(session, rows)

    monkeypatch.setattr(bundles, "_insert", interrupted)


class Crash(BaseException):
    """The end of the process: nothing runs after it."""


async def test_others_write_between_slices_and_nothing_is_visible_until_the_last_one(
    database: Database, bundle: Bundle, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [line.id for line in bundle.lines("jobs.jsonl", JobLine)]
    open_slice, slices = imports.slice_of, 0

    @asynccontextmanager
    async def watched(*arguments: Any) -> AsyncIterator[AsyncSession]:
        nonlocal slices
        await create(database)
        assert await visible(database, taken) == []
        async with open_slice(*arguments) as session:
            yield session
            assert await visible(database, taken) == []
        slices += 1

    monkeypatch.setattr(imports, "slice_of", watched)
    assert await bundles.import_bundle(database, bundle) == (experiment, True)
    assert slices > 10
    assert len(await visible(database, taken)) > 3 * len(taken)
    assert (await stored(database))[2] == 0
    async with database.read() as session:
        assert sum((await jobs.count_by_status(session)).values()) == slices + len(taken)


@pytest.mark.parametrize("again", [True, False])
async def test_a_crash_leaves_nothing_visible_and_is_cleaned(
    database: Database, bundle: Bundle, experiment: str, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    with monkeypatch.context() as crash:
        interrupt(crash, Crash())
        with pytest.raises(Crash):
            await bundles.import_bundle(database, bundle)
    left = await stored(database)
    assert left[0] > 0
    assert left[2] == 1
    async with database.read() as session:
        hidden = list((await session.scalars(select(Job.id))).all())
        assert sum((await jobs.count_by_status(session)).values()) == 0
    assert await visible(database, hidden) == []
    if again:
        assert await bundles.import_bundle(database, bundle) == (experiment, True)
        assert any((await everything(database, experiment))["summaries"].values())
        return
    seen = await imports.discard_abandoned(database, frozenset())
    assert await stored(database) == left, "it may still be running"
    assert await imports.discard_abandoned(database, seen) == frozenset()
    assert await stored(database) == (0, 0, 0)


async def test_an_import_that_adds_slices_is_not_abandoned(
    database: Database, bundle: Bundle, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, seen = bundles._insert, frozenset[Any]()

    async def inserted_and_watched(session: AsyncSession, rows: Any) -> None:
        nonlocal seen
        seen = await imports.discard_abandoned(database, seen)
        assert len(seen) == 1
        await insert(session, rows)

    monkeypatch.setattr(bundles, "_insert", inserted_and_watched)
    assert await bundles.import_bundle(database, bundle) == (experiment, True)


async def test_a_later_import_of_the_experiment_ends_an_earlier_one(
    database: Database, bundle: Bundle, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Callable[..., Any] = bundles._in_a_thread

    async def overtaken(rows: Any) -> AsyncIterator[Any]:
        found = read(rows)
        yield await anext(found)
        yield await anext(found)
        monkeypatch.setattr(bundles, "_in_a_thread", read)
        assert await bundles.import_bundle(database, bundle) == (experiment, True)
        async for more in found:
            yield more

    monkeypatch.setattr(bundles, "_in_a_thread", overtaken)
    with pytest.raises(Conflict, match=f"Another import of experiment {experiment} has begun"):
        await bundles.import_bundle(database, bundle)
    assert any((await everything(database, experiment))["summaries"].values())
