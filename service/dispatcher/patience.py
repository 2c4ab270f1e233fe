"""Waiting in the time in which this process ran.

A process that was stopped, swapped out or blocked finds every deadline expired when it continues, although the answers
that it waits for have arrived. This time is not counted here, because nobody else is to blame for it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

SLICE_S = 1.0
"""Time is counted in pieces of this length, whatever time passes meanwhile."""
STALL_S = 0.5
"""A piece that takes this much longer than asked for is a stall: what is awaited gets another piece to arrive."""

Clock = Callable[[], float]


async def wait(awaited: "asyncio.Future[Any]", seconds: float | None, clock: Clock = time.monotonic) -> bool:
    """Wait until a future is done, at most `seconds` in which this process ran. Returns whether it is done."""
    if seconds is None:
        await asyncio.wait((awaited,))
        return True
    for piece in _pieces(seconds, clock):
        done, _ = await asyncio.wait((awaited,), timeout=piece)
        if done:
            return True
    return awaited.done()


async def sleep(seconds: float, clock: Clock = time.monotonic) -> None:
    """Sleep for `seconds` in which this process ran."""
    for piece in _pieces(seconds, clock):
        await asyncio.sleep(piece)


def _pieces(seconds: float, clock: Clock) -> Iterator[float]:
    """Yield the lengths of the pieces to wait for. The last one is not one in which this process stalled."""
    left, piece, began = seconds, 0.0, clock()
    while left > 0:
        piece, began = min(left, SLICE_S), clock()
        yield piece
        left -= piece
    if clock() - began > piece + STALL_S:
        yield SLICE_S
