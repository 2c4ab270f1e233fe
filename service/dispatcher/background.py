"""Blocking calls beside the event loop, some of which may never return."""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

Result = TypeVar("Result")


class Background:
    """A thread that runs calls in the order in which they are made.

    Unlike the threads of `asyncio.to_thread`, it neither keeps the process from ending nor takes a thread from other
    calls while one of its own hangs.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[..., Result], *arguments: Any) -> "asyncio.Future[Result]":
        """Run a call after those before it. It runs even if nobody waits for the result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def settle(result: Result | None, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)
                future.exception()  # nobody may be waiting for it

        def run() -> None:
            result: Result | None = None
            failure: Exception | None = None
            try:
                result = call(*arguments)
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, result, failure)

        self._calls.put(run)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return future

    def _work(self) -> None:
        while True:
            self._calls.get()()
