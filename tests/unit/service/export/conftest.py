"""Fixtures: a real API, whose jobs the tests advance step by step."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from service.client import Client
from service.export import Run, Selection, Sink, export
from service.local.private_ray import free_port
from service.settings import Settings
from service.store import Database
from tests.unit.service.conftest import serving
from tests.unit.service.store.acting import Worker, row

Answer = TypeVar("Answer")
PATIENCE_S = 120


class Lab:
    """A service on an empty database with a client, and reports on its jobs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._runner = asyncio.Runner()
        self.database = Database(settings.database)
        self._api = ExitStack()
        self.start()
        self._runner.run(self.database.__aenter__())
        self.client = Client(self.url, backoff_s=0.01, retry_s=PATIENCE_S, patience_s=PATIENCE_S)

    def start(self) -> None:
        """Start the API."""
        self.url = self._api.enter_context(serving(self.settings))

    def stop(self) -> None:
        """Stop the API; reports on jobs remain possible."""
        self._api.close()

    def do(self, act: Awaitable[Answer]) -> Answer:
        """Run a coroutine to its end."""

        async def wait() -> Answer:
            return await act

        return self._runner.run(wait())

    def submit(self, **request: Any) -> str:
        """Queue a job and return its id."""
        body = {"normalization": {"type": "group", "num_groups": 8}, "batch_size": 2} | request
        return str(self.client.submit(body)["id"])

    def train(self, resumed_from_step: int = 0) -> Worker:
        """Let a worker claim the next job."""
        return self.do(Worker.run(self.database, resumed_from_step))

    def report(self, worker: Worker, *steps: int, error: float | None = None) -> None:
        """Report an evaluation at each of these steps."""
        for step in steps:
            self.do(worker.report(row(step, epoch=step // 10, test_error=1 / step if error is None else error)))

    def trained(self, **request: Any) -> str:
        """Create a succeeded job with rows at steps 10 and 20, and return its id."""
        job = self.submit(**request)
        worker = self.train()
        assert worker.job == job
        self.report(worker, 10, 20)
        self.do(worker.finish())
        return job

    def close(self) -> None:
        """Stop the API and close the database."""
        self.client.close()
        self.stop()
        self._runner.run(self.database.__aexit__(None, None, None))
        self._runner.close()


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(Settings(home=tmp_path_factory.mktemp("home"), port=free_port()))
    yield lab
    lab.close()


class Following:
    """An export with `follow` in a thread, which yields the runs that it has updated."""

    def __init__(self, lab: Lab, selection: Selection, sink: Sink) -> None:
        self._runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._failure: BaseException | None = None

        def follow() -> None:
            try:
                with Client(lab.url, backoff_s=0.01, retry_s=PATIENCE_S, patience_s=PATIENCE_S) as client:
                    export(client, selection, sink, follow=True, on_update=self._runs.put)
            except BaseException as error:
                self._failure = error

        self._thread = threading.Thread(target=follow, daemon=True)
        self._thread.start()

    def until(self, seen: Callable[[Run], bool]) -> Run:
        """Return the next run that fulfils the condition."""
        while True:
            run = self._runs.get(timeout=PATIENCE_S)
            if seen(run):
                return run

    def end(self) -> None:
        """Wait until the export ends by itself."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure


Follow = Callable[..., Following]


@pytest.fixture
def follow(lab: Lab) -> Follow:
    """Return a function that starts exports that follow jobs."""

    def start(sink: Sink, *jobs: str, **filters: Any) -> Following:
        return Following(lab, Selection(jobs, filters), sink)

    return start
