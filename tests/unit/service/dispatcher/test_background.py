"""Blocking calls neither block the event loop nor keep the process from ending."""

import asyncio
import subprocess
import sys
import threading

import pytest

from service.dispatcher.background import Background

pytestmark = pytest.mark.anyio


async def test_calls_run_in_their_order_and_return_their_results() -> None:
    background = Background("test")
    began: list[int] = []

    def call(number: int) -> int:
        began.append(number)
        return 10 * number

    assert await asyncio.gather(*(background.submit(call, number) for number in range(3))) == [0, 10, 20]
    assert began == [0, 1, 2]


async def test_an_error_is_raised_where_the_result_is_awaited_and_the_next_call_runs() -> None:
    background = Background("test")
    failing, following = background.submit(int, "x"), background.submit(int, "1")
    with pytest.raises(ValueError, match="invalid literal"):
        await failing
    assert await following == 1


async def test_a_call_that_nobody_awaits_any_longer_runs_all_the_same() -> None:
    background = Background("test")
    may_run, ran = threading.Event(), threading.Event()
    background.submit(may_run.wait)
    background.submit(ran.set).cancel()
    may_run.set()
    await background.submit(lambda: None)
    assert ran.is_set()


def test_a_process_ends_though_a_call_never_returns() -> None:
    program = """
import asyncio, threading
from service.dispatcher.background import Background
async def main():
    Background("hangs").submit(threading.Event().wait)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0
