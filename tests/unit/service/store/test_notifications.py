"""Committed transactions notify those who listen: on PostgreSQL by NOTIFY, for SQLite by datagrams on local sockets."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pytest_postgresql.executors import PostgreSQLExecutor
from sqlalchemy.ext.asyncio import AsyncSession

from service.experiments.request import ExperimentRequest, expand
from service.store import Channel, Database, attempts, experiments, jobs, notifications, sockets
from service.store.notifications import notified_by
from service.store.sockets import Sockets
from tests.postgres import administer
from tests.unit.service.store.acting import Worker, create, request, row
from worker.events import Event, Progress

pytestmark = pytest.mark.anyio

LIMIT_S = 120
GRID: dict[str, Any] = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [2, 32]}


@asynccontextmanager
async def listening(database: Database, channel: Channel = Channel.QUEUE) -> AsyncIterator[asyncio.Event]:
    """An event that is set by notifications from now on."""
    notified = asyncio.Event()
    async with database.listen(channel, notified.set):
        await wait(notified)
        yield notified


async def wait(notified: asyncio.Event) -> None:
    async with asyncio.timeout(LIMIT_S):
        await notified.wait()
    notified.clear()


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[Database]:
    """A second connection to the database, as another process has."""
    async with Database(database_url) as database:
        yield database


async def test_a_commit_notifies_every_listener_of_other_processes_and_of_its_own(
    database: Database, writer: Database
) -> None:
    async with (
        listening(database) as queue,
        listening(database) as other,
        listening(writer) as own,
        listening(database, Channel.EVENTS) as events,
    ):
        await create(writer)
        for notified in (queue, other, own, events):
            await wait(notified)


async def test_what_is_notified_can_be_read(database: Database, writer: Database) -> None:
    async with listening(database) as notified:
        for count in range(1, 6):
            await create(writer)
            await wait(notified)
            async with database.read() as session:
                assert len(await attempts.pending(session, 10, 1)) == count


async def test_a_transaction_that_is_rolled_back_notifies_nobody(database: Database, writer: Database) -> None:
    async def fail() -> None:
        async with writer.write() as session:
            await jobs.create(session, request())
            raise ZeroDivisionError

    job = await create(writer)
    async with listening(database) as queue, listening(database, Channel.EVENTS) as events:
        with pytest.raises(ZeroDivisionError):
            await fail()
        await Worker.claim(writer)
        await wait(events)
        assert not queue.is_set(), "neither the job that was not created nor the claim concerns the dispatcher"
        async with writer.write() as session:
            await jobs.cancel(session, job)
        await wait(queue)


async def test_nobody_is_notified_who_has_stopped_listening(database: Database, writer: Database) -> None:
    async with listening(database) as left:
        pass
    async with listening(database) as notified:
        await create(writer)
        await wait(notified)
    assert not left.is_set()


Change = Callable[[AsyncSession, str], Any]
REQUESTS: dict[str, Change] = {
    "submit": lambda session, _job: jobs.create(session, request()),
    "pause": jobs.pause,
    "cancel": jobs.cancel,
}


@pytest.mark.parametrize("asked", REQUESTS)
async def test_requests_concern_the_dispatcher(database: Database, asked: str) -> None:
    await create(database)
    worker = await Worker.run(database)
    async with database.write() as session:
        await REQUESTS[asked](session, worker.job)
        assert notified_by(session) == {Channel.QUEUE, Channel.EVENTS}


async def test_jobs_that_are_queued_again_concern_the_dispatcher(database: Database) -> None:
    job = await create(database)
    async with database.write() as session:
        await jobs.pause(session, job)
        assert notified_by(session) == {Channel.EVENTS}, "a queued job is paused by the request itself"
    async with database.write() as session:
        await jobs.resume(session, job)
        assert Channel.QUEUE in notified_by(session)
    worker = await Worker.run(database)
    async with database.write() as session:
        await attempts.lose(session, worker.attempt, "the node went away", 5)
        assert Channel.QUEUE in notified_by(session)


async def test_all_requests_for_an_experiment_concern_the_dispatcher(database: Database) -> None:
    asked = ExperimentRequest.model_validate({"grid": GRID}).resolved()
    async with database.write() as session:
        id_ = (await experiments.create(session, asked, expand(asked))).id
        assert Channel.QUEUE in notified_by(session)
    worker = await Worker.run(database)
    async with database.write() as session:
        await experiments.pause(session, id_)
        assert Channel.QUEUE in notified_by(session)
    await worker.finish("paused")
    async with database.write() as session:
        await experiments.resume(session, id_)
        assert Channel.QUEUE in notified_by(session)
    async with database.write() as session:
        await experiments.prioritize(session, await experiments.get(session, id_, lock=True), 3)
        assert notified_by(session) == {Channel.QUEUE}
    await Worker.run(database)
    async with database.write() as session:
        await experiments.cancel(session, id_)
        assert Channel.QUEUE in notified_by(session)


async def test_what_a_worker_reports_concerns_the_streams_only(database: Database) -> None:
    await create(database)
    worker = await Worker.claim(database)
    progress = Progress(epoch=1, step=1, images_per_s=1.0, train_loss=1.0)
    events: list[Event] = [row(1, train_loss=1.0), progress]
    for seq, reported in enumerate(events, 1):
        async with database.write() as session:
            await attempts.record(session, worker.attempt, [reported.model_copy(update={"seq": seq})], {})
            assert notified_by(session) == {Channel.EVENTS}


class TestPostgreSQL:
    """The connection that listens."""

    @pytest.fixture(params=[pytest.param("postgres", marks=pytest.mark.postgres)])
    def database_url(self, request: pytest.FixtureRequest, database_url: str) -> str:
        return database_url

    async def test_a_listener_that_lost_its_connection_connects_again(
        self,
        database: Database,
        writer: Database,
        postgres_server: PostgreSQLExecutor,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(notifications, "RECONNECT_S", 0)
        async with listening(database) as notified:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
            await asyncio.to_thread(administer, postgres_server, query)
            await wait(notified)  # some may have been missed
            await create(writer)
            await wait(notified)
        assert "notifications of the database are interrupted, only polls" in caplog.text

    async def test_a_listener_waits_for_a_server_that_does_not_answer(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(notifications, "RECONNECT_S", 0)
        tries: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        async def refuse(**arguments: Any) -> None:
            tries.put_nowait(arguments)
            raise psycopg.OperationalError("connection refused")

        monkeypatch.setattr(psycopg.AsyncConnection, "connect", refuse)
        async with (
            Database("postgresql+psycopg://user@host/name?keepalives_idle=7") as database,
            database.listen(Channel.QUEUE, lambda: pytest.fail("nothing can have been notified")),
            asyncio.timeout(LIMIT_S),
        ):
            for _ in range(3):
                arguments = await tries.get()
                assert (arguments["host"], arguments["dbname"], arguments["autocommit"]) == ("host", "name", True)
                assert (arguments["keepalives_idle"], arguments["keepalives_interval"]) == ("7", 10)
        assert caplog.text.count("connection refused") == 1


class TestSockets:
    """The sockets beside the file of SQLite."""

    @pytest.fixture(params=["sqlite"])
    def database_url(self, request: pytest.FixtureRequest, database_url: str) -> str:
        return database_url

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / f"normlab.db{sockets.SUFFIX}"

    async def test_only_the_user_can_send_and_nothing_is_left(self, database: Database, folder: Path) -> None:
        async with listening(database):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert [path.is_socket() for path in folder.iterdir()] == [True]
        assert list(folder.iterdir()) == []

    async def test_the_socket_of_a_killed_listener_is_removed(self, database: Database, folder: Path) -> None:
        async with listening(database) as notified:
            (living,) = folder.iterdir()
            with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as killed, sockets._short(folder) as short:
                killed.bind(f"{short}/{Channel.QUEUE}-1-00")
            assert len(list(folder.iterdir())) == 2
            await create(database)
            await wait(notified)
            assert list(folder.iterdir()) == [living]

    async def test_a_listener_that_does_not_read_delays_no_writer(self, database: Database, folder: Path) -> None:
        async with listening(database) as notified:
            beside = Sockets(folder.with_name("normlab.db"))
            for _ in range(5000):
                beside.send(Channel.QUEUE)
            await wait(notified)

    async def test_the_path_of_the_database_may_have_any_length(self, tmp_path: Path) -> None:
        home = tmp_path / ("x" * 200) / ("ü" * 100)
        home.mkdir(parents=True)
        notified = asyncio.Event()
        with Sockets(home / "normlab.db").listen("channel", notified.set):
            notified.clear()
            Sockets(home / "normlab.db").send("channel")
            await wait(notified)
        assert list((home / f"normlab.db{sockets.SUFFIX}").iterdir()) == []

    async def test_a_link_to_the_database_leads_to_the_same_sockets(self, tmp_path: Path, folder: Path) -> None:
        (tmp_path / "normlab.db").touch()
        link = tmp_path / "linked" / "database"
        link.parent.mkdir()
        link.symlink_to(tmp_path / "normlab.db")
        assert Sockets(link).folder == Sockets(tmp_path / "normlab.db").folder == folder

    async def test_without_sockets_the_polls_remain(
        self, database: Database, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder.touch()
        async with database.listen(Channel.QUEUE, lambda: pytest.fail("there is no socket")):
            await create(database)
        assert "no notifications, only polls" in caplog.text
        assert str(folder) in caplog.text
