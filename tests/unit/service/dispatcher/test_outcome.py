"""How an attempt on several workers ended follows from how each of them did."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.dispatcher import gang
from service.dispatcher.cluster import Report, Worker, WorkerGone
from service.dispatcher.gang import Gang, verdict
from worker.events import Failure, Finished, Outcome

pytestmark = pytest.mark.anyio

NEVER = 1000.0


def ended(outcome: Outcome = "succeeded") -> Finished:
    return Finished(outcome=outcome)


def failed(code: Any, message: str) -> Finished:
    return Finished(outcome="failed", failure=Failure(code=code, message=message, may_pass=True))


PEER = failed("peer", "rank 0 of 3 lost the others")


@pytest.mark.parametrize("outcome", ["succeeded", "paused", "cancelled"])
def test_what_the_first_brought_to_its_end_counts(outcome: Outcome) -> None:
    first = ended(outcome)
    assert verdict([first, WorkerGone("its node went away"), None]) is first


def test_a_failure_is_told_with_its_rank_whoever_else_was_lost_by_it() -> None:
    diverged = failed("diverged", "nan")
    both: list[list[Finished | WorkerGone | None]] = [[PEER, WorkerGone("away"), diverged], [None, PEER, diverged]]
    for endings in both:
        decided = verdict(endings)
        assert isinstance(decided, Failure)
        assert (decided.code, decided.message) == ("diverged", "rank 2: nan")


def test_of_several_failures_the_first_rank_has_the_word() -> None:
    decided = verdict([failed("out_of_memory", "no room"), failed("diverged", "nan")])
    assert isinstance(decided, Failure)
    assert decided.message == "rank 0: no room"


def test_a_lost_worker_is_the_reason_and_not_those_it_left_behind() -> None:
    decided = verdict([PEER, None, WorkerGone("ended by SIGKILL")])
    assert isinstance(decided, WorkerGone)
    assert str(decided) == "rank 2: ended by SIGKILL"


def test_where_all_were_left_behind_the_first_says_what_it_saw() -> None:
    decided = verdict([None, PEER, failed("peer", "another")])
    assert isinstance(decided, WorkerGone)
    assert str(decided) == "rank 0 of 3 lost the others"


class Scripted(Worker):
    """A worker that ends as it is told, and says what was asked of it."""

    def __init__(self, ending: Finished | Exception | None, asked: list[str], *, receives: bool = True) -> None:
        super().__init__("scripted", None)
        self._ending, self._asked, self._receives = ending, asked, receives

    async def receive(self, dataset: Any) -> None:
        if not self._receives:
            raise WorkerGone("no room for the images")

    async def start(
        self, attempt_id: str, spec: dict[str, Any], dataset: Any, checkpoint: Any, rank: int = 0, address: str = ""
    ) -> None:
        self._asked.append(f"start {rank} {address}".strip())

    async def rendezvous(self, attempt_id: str) -> str | None:
        return "10.0.0.1:7"

    async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        if self._ending is None:
            await asyncio.sleep(NEVER)
        if isinstance(self._ending, Exception):
            raise self._ending
        assert isinstance(self._ending, Finished)
        return Report([self._ending], {})


async def see_through(
    workers: list[Scripted],
    *,
    writing: asyncio.Lock | None = None,
    started: Callable[[], Awaitable[None]] | None = None,
) -> tuple[Gang, Any]:
    async def nothing() -> None:
        pass

    async def follow_first() -> Finished:
        return (await workers[0].poll("attempt", 0, 0)).events[-1]  # type: ignore[return-value]

    whole = Gang(workers, "attempt", {})
    start = whole.starting("images", None, started or nothing)
    return whole, await whole.see_through(start, follow_first, writing or asyncio.Lock())


async def test_the_first_starts_first_and_the_others_where_it_listens() -> None:
    asked: list[str] = []
    _, endings = await see_through([Scripted(ended(), asked) for _ in range(3)])
    assert asked[0] == "start 0"
    assert sorted(asked[1:]) == ["start 1 10.0.0.1:7", "start 2 10.0.0.1:7"]
    assert [ending.outcome for ending in endings] == ["succeeded"] * 3


async def test_those_who_never_began_are_whole_and_those_who_did_not_end_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gang, "SETTLE_S", 0.01)
    asked: list[str] = []
    unstarted, endings = await see_through([Scripted(None, asked), Scripted(None, asked, receives=False)])
    assert asked == []
    assert endings[0] is None
    assert isinstance(endings[1], WorkerGone)
    assert [unstarted.is_whole(rank, "cpu") for rank in range(2)] == [True, False]

    stuck, endings = await see_through([Scripted(PEER, asked), Scripted(None, asked), Scripted(WorkerGone(""), asked)])
    assert endings[1] is None
    assert [stuck.is_whole(rank, "cpu") for rank in range(3)] == [True, False, False]
    assert not stuck.is_whole(0, "cuda:0 (H200)"), "what NCCL leaves behind"


async def test_a_checkpoint_that_is_being_stored_is_stored_before_the_attempt_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gang, "SETTLE_S", 0.01)
    writing, stored = asyncio.Lock(), asyncio.Event()

    async def store() -> None:
        async with writing:
            await asyncio.sleep(0.1)
            stored.set()

    storing = asyncio.create_task(store())
    await asyncio.sleep(0)
    await see_through([Scripted(None, []), Scripted(WorkerGone("away"), [])], writing=writing)
    assert stored.is_set()
    await storing


async def test_a_defect_is_not_taken_for_a_lost_worker() -> None:
    with pytest.raises(ZeroDivisionError):
        await see_through([Scripted(ZeroDivisionError(), []), Scripted(ended(), [])])
