"""Deadlines pass in the time in which the process runs."""

import asyncio

import pytest

from service.dispatcher import patience

pytestmark = pytest.mark.anyio


class Jumping:
    """A clock that jumps at chosen readings, as it does for a process that was stopped in between."""

    def __init__(self, *jumps: float) -> None:
        self.now, self._jumps = 0.0, list(jumps)

    def __call__(self) -> float:
        self.now += self._jumps.pop(0) if self._jumps else 0.0
        return self.now


async def test_what_is_done_is_awaited_no_longer() -> None:
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    assert await patience.wait(done, 1000)
    assert await patience.wait(done, None)


async def test_what_does_not_come_is_awaited_for_the_given_time() -> None:
    assert not await patience.wait(asyncio.get_running_loop().create_future(), 0.001)


@pytest.mark.parametrize(
    ("seconds", "jumps", "waits"),
    [
        (2.5, (0, 0, 0, 0, 0), [1, 1, 0.5]),
        (2.5, (0, 0, 1, 1, 0.5), [1, 1, 0.5]),
        # 15 s pass in the second piece: it counts as one second like the others.
        (2.5, (0, 0, 15, 1, 0.5), [1, 1, 0.5]),
        # 15 s pass in the last one: what is awaited has another one to arrive.
        (0.5, (0, 0, 15), [0.5, 1]),
    ],
)
def test_a_stall_counts_as_one_piece_and_is_not_the_last_one(
    seconds: float, jumps: tuple[float, ...], waits: list[float]
) -> None:
    assert list(patience._pieces(seconds, Jumping(*jumps))) == waits


async def test_an_answer_that_arrived_during_a_stall_counts() -> None:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def stall() -> float:
        # At the end of the only piece: the thread that received the answer hands it over after the stall.
        if (clock := stalled()) == 15:
            loop.call_soon(answer.set_result, "here")
        return clock

    stalled = Jumping(0, 0, 15)
    assert await patience.wait(answer, 0.001, stall)
