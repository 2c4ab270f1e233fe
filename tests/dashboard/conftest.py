"""Fixtures of the dashboard in Chromium, with an API on a free port."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from service.api.context import Services
from service.app import Server, create_server
from service.artifacts import LocalArtifacts
from service.client import Client
from service.settings import Settings
from service.store import Database
from tests.dashboard.browser import executable, launched
from tests.dashboard.pages import PAGES, report
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_evaluations import computed
from worker.events import Failure

PATIENCE_S = 120
EXPECTED = ("Failed to load resource", "Applying inline style violates")
"""Accepted console messages: failed requests, which pages report, and plotly.js's blocked style sheet for maps."""

expect.set_options(timeout=PATIENCE_S * 1000)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run on asyncio, as the whole suite; with the scope of the browser."""
    return "asyncio"


@pytest.fixture(scope="package")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    if executable() is None:
        sentence = "No Chromium is installed: the dashboard's tests need Debian's package chromium-headless-shell."
        if os.environ.get("CI") == "true":
            pytest.fail(f"{sentence} CI is true, so these tests may not be skipped.", pytrace=False)
        pytest.skip(sentence)
    async with launched() as browser:
        yield browser


@dataclass
class Api:
    """An API in a thread, which can be stopped and restarted at the same address."""

    settings: Settings
    port: int = 0
    url: str = ""
    _server: Server | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start listening, at the same address as before."""
        server = create_server(self.settings.model_copy(update={"port": self.port}))
        listens = threading.Event()
        startup = server.startup

        async def announced(sockets: object = None) -> None:
            await startup()
            listens.set()

        server.startup = announced  # type: ignore[method-assign]
        self._server, self._thread = server, threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        assert listens.wait(PATIENCE_S)
        self.port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def streams(self) -> int:
        """The number of open event streams."""
        assert self._server is not None
        services: Services = self._server.config.app.state.services  # type: ignore[union-attr]
        return len(services.tailer)

    def stop(self) -> None:
        """Stop, and close every stream."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive()


@contextmanager
def standing(home: Path, database: Path) -> Iterator[Api]:
    """Run an API on a copy of a database in `home`."""
    shutil.copy(database, home / "normlab.db")
    api = Api(Settings(home=home, port=0))
    api.start()
    yield api
    api.stop()


@pytest.fixture
def settings(tmp_path: Path, sqlite_template: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(sqlite_template, home / "normlab.db")
    return Settings(home=home, port=0)


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    api = Api(settings)
    api.start()
    yield api
    api.stop()


@pytest.fixture
async def reporter(settings: Settings) -> AsyncIterator[Reporter]:
    """A reporter, which claims jobs and reports on them in place of the dispatcher and a worker."""
    async with Database(settings.database) as database:
        yield Reporter(database, LocalArtifacts(Path(settings.artifacts)))


@pytest.fixture
def submit(api: Api) -> Iterator[Callable[..., str]]:
    """Return a function that submits a job: `submit("group", 2, name="one")` returns its id."""
    with Client(api.url) as client:

        def submit(normalization: str = "batch", batch_size: int = 8, **fields: Any) -> str:
            spec = {
                "normalization": {"type": normalization},
                "batch_size": batch_size,
                "dataset": {"train_limit": 10_000, "test_limit": 2000},
            }
            job: str = client.submit(spec | fields)["id"]
            return job

        yield submit


def held_until(event: asyncio.Event) -> Callable[[Route], Awaitable[None]]:
    """Return a handler of requests that sends them once `event` is set."""

    async def hold(route: Route) -> None:
        await event.wait()
        await route.continue_()

    return hold


@dataclass
class Visit:
    """A browser context: pages of the dashboard, and the errors in their consoles."""

    context: BrowserContext
    api: Api
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str) -> Page:
        """Open a new page at `path`."""
        page = await self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._heard)
        await page.goto(self.api.url + path)
        return page

    def _heard(self, message: Any) -> None:
        if message.type == "error" and not any(expected in message.text for expected in EXPECTED):
            self.complaints.append(message.text)


@pytest.fixture
async def start_visit(browser: Browser, api: Api) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that starts a visit with options of Playwright's contexts. Console errors fail the test."""
    visits: list[Visit] = []

    async def start(**options: Any) -> Visit:
        context = await browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.set_default_timeout(PATIENCE_S * 1000)
        visits.append(Visit(context, api))
        return visits[-1]

    yield start
    for visit in visits:
        await visit.context.close()
    assert [complaint for visit in visits for complaint in visit.complaints] == []


@pytest.fixture
async def visit(start_visit: Callable[..., Any]) -> Visit:
    started: Visit = await start_visit()
    return started


@pytest.fixture
async def addresses(api: Api, submit: Callable[..., str], reporter: Reporter) -> dict[str, str]:
    """The addresses of all pages, with a finished job, a queued job and a running experiment."""
    job = submit("group", 2, name="one that ran", epochs=10, labels={"study": "paper"}, telemetry={})
    await reporter.start()
    for epoch in (1, 2, 3):
        await reporter.metrics("train", epoch, 10 * epoch - 5, train_loss=1 / epoch, train_error=0.5 / epoch)
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch, test_loss=1 / epoch)
        gaps = {"stem_norm/mean_gap": 0.5 / epoch, "stages.0.0.norm1/mean_gap": 0.25}
        await reporter.metrics("telemetry", epoch, 10 * epoch, train_mode_error=0.2, eval_mode_error=0.3, **gaps)
    await reporter.log("a line")
    await reporter.log("a warning", "warning")
    taken = await reporter.checkpoint(3, 30, {"model.safetensors": b"weights"}, test_error=0.2)
    httpx2.post(f"{api.url}/v1/checkpoints/{taken}/evaluate", json={"batch_statistics": 4})
    await computed(reporter.database, batch_statistics=4)
    await reporter.finish()
    body = {"grid": {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [8, 4]}}
    experiment = httpx2.post(f"{api.url}/v1/experiments", json=body).json()["id"]
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5)
    await reporter.finish()
    many = httpx2.post(f"{api.url}/v1/experiments", json={"grid": {**body["grid"], "seed": [0, 1, 2, 3]}}).json()["id"]
    for _ in range(3 + 16):
        await reporter.start()
        for epoch in (1, 2):
            await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch)
        await reporter.finish()
    failed = submit(name="failed")
    await reporter.start()
    await reporter.finish("failed", Failure(code="diverged", message="Not finite.", step=3, may_pass=False))
    tune = {"over": {"optimizer.learning_rate": [0.01, 0.1]}, "holdout": 100, "seeds": 1}
    tuned = httpx2.post(f"{api.url}/v1/experiments", json=body | {"tune": tune}).json()["id"]
    await reporter.heartbeat(report(await reporter.start()))
    other = submit("batch", 2, name="one that waits, with a name so long that no table has room for all of it at once")
    ids = {"job": job, "other": other, "experiment": experiment, "many": many, "tuned": tuned, "failed": failed}
    return {name: path.format(**ids) for name, path in PAGES.items()}
