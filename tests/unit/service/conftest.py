"""Fixtures: the command line with the real API, or with a scripted server."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.app import create_server
from service.cli import main
from service.client import Client
from service.local.private_ray import free_port
from service.settings import Settings
from service.store import Database, migrate
from tests.unit.service.stand_in import StandIn, running
from tests.unit.service.store.acting import FINAL, Worker, row


@dataclass
class Ended:
    """The result of a command: exit code and output."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, parsed as JSON."""
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("NORMLAB_HOME", str(tmp_path / "no-home"))

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["normlab", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """The address of a real API on an empty database, without a dispatcher."""

    async def migrated() -> None:
        async with Database(settings.database) as database:
            await migrate.upgrade(database)

    asyncio.run(migrated())
    server = create_server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{settings.port}"
    with Client(url, retry_s=120) as client:
        client.specification()
    yield url
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(Settings(home=tmp_path_factory.mktemp("home"), port=free_port())) as url:
        yield url


@pytest.fixture
def lab(run: Run, api: str) -> Run:
    return lambda *arguments: run("--url", api, *arguments)


@pytest.fixture
def service() -> Iterator[StandIn]:
    with running() as service:
        yield service


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of an API, and the id of an ended experiment, of which one job failed."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), port=free_port())

    async def train() -> None:
        async with Database(settings.database) as database:
            for number in range(8):
                worker = await Worker.run(database)
                if number == 7:
                    await worker.fail(FINAL)
                    continue
                await worker.report(row(10, test_error=0.1 + 0.02 * (number % 4) + 0.001 * number))
                await worker.finish()

    grid = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [2, 32], "seed": [0, 1]}
    with serving(settings) as url:
        with Client(url) as client:
            id_ = client.experiments.submit({"name": "ran", "grid": grid})["id"]
        asyncio.run(train())
        yield url, id_
