"""Fixtures: an application on an empty database with a client, and servers on ports for tests of streams."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from service.api.routes import health
from service.app import Server, create_app, create_server
from service.artifacts import LocalArtifacts
from service.settings import Settings
from service.store import Database, migrate
from tests.integration.api.reporter import Reporter


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty database with the current schema, which tests copy."""
    path = tmp_path_factory.mktemp("empty") / "normlab.db"

    async def make() -> None:
        async with Database(f"sqlite+aiosqlite:///{path}") as database:
            await migrate.upgrade(database)

    asyncio.run(make())
    return path


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "normlab.db")
    return Settings(home=home, port=0)


@pytest.fixture(autouse=True)
def patient_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the timeouts of the health checks, because a busy machine may be slow."""
    monkeypatch.setattr(health, "PATIENCE_S", 120)


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://localhost") as http:
        yield http


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """A second connection to the same database, as another process has."""
    async with Database(settings.database) as database:
        yield database


@pytest.fixture
def reporter(database: Database, settings: Settings) -> Reporter:
    return Reporter(database, LocalArtifacts(Path(settings.artifacts)))


class Listening:
    """A server that runs in a thread."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.thread = threading.Thread(target=server.run, daemon=True)
        self._listens = threading.Event()
        startup = server.startup

        async def announced(sockets: object = None) -> None:
            await startup()
            self._listens.set()

        server.startup = announced  # type: ignore[method-assign]

    def __enter__(self) -> "Listening":
        self.thread.start()
        assert self._listens.wait(120)
        self.url = "http://{}:{}".format(*self.server.servers[0].sockets[0].getsockname()[:2])
        return self

    def stop(self) -> None:
        """Stop the server, and wait until it has ended."""
        self.server.should_exit = True
        self.thread.join(120)
        assert not self.thread.is_alive()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


@pytest.fixture
def listen(settings: Settings) -> Iterator[Callable[[], Listening]]:
    """Return a function that starts a replica on a free port, on the same database."""
    started: list[Listening] = []

    def start() -> Listening:
        started.append(Listening(create_server(settings)).__enter__())
        return started[-1]

    yield start
    for listening in started:
        listening.stop()


@pytest.fixture
async def open_service(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of a service without tokens, which permits everybody everything."""
    app = create_app(Settings(home=settings.home, port=0))
    transport = ASGITransport(app)
    async with app.router.lifespan_context(app), AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield http
