"""The outcome of an attempt follows from the outcomes of its workers."""

from typing import Any

import pytest

from service.dispatcher.cluster import WorkerGone
from service.dispatcher.outcome import Ending, decide_outcome
from worker.events import Failure, Finished, Outcome


def ended(outcome: Outcome = "succeeded") -> Finished:
    return Finished(outcome=outcome)


def failed(code: Any, message: str) -> Finished:
    return Finished(outcome="failed", failure=Failure(code=code, message=message, may_pass=True))


PEER = failed("peer", "rank 0 of 3 lost the others")


@pytest.mark.parametrize("outcome", ["succeeded", "paused", "cancelled"])
def test_what_the_first_brought_to_its_end_counts(outcome: Outcome) -> None:
    first = ended(outcome)
    assert decide_outcome([first, WorkerGone("its node went away"), None]) is first
    assert decide_outcome([first]) is first


def test_a_failure_is_reported_with_its_rank_even_if_other_workers_were_lost() -> None:
    cases: list[list[Ending]] = [
        [PEER, WorkerGone("away"), failed("diverged", "nan")],
        [None, PEER, failed("diverged", "nan")],
    ]
    for endings in cases:
        decided = decide_outcome(endings)
        assert isinstance(decided, Failure)
        assert (decided.code, decided.message) == ("diverged", "rank 2: nan")


def test_of_several_failures_the_first_rank_has_the_word() -> None:
    decided = decide_outcome([failed("out_of_memory", "no room"), failed("diverged", "nan")])
    assert isinstance(decided, Failure)
    assert decided.message == "rank 0: no room"


def test_a_lost_worker_is_the_reason_and_not_those_it_left_behind() -> None:
    decided = decide_outcome([PEER, None, WorkerGone("ended by SIGKILL")])
    assert isinstance(decided, WorkerGone)
    assert str(decided) == "rank 2: ended by SIGKILL"


def test_where_all_were_left_behind_the_first_says_what_it_saw() -> None:
    decided = decide_outcome([None, PEER, failed("peer", "another")])
    assert isinstance(decided, WorkerGone)
    assert str(decided) == "rank 0 of 3 lost the others"


def test_a_worker_by_itself_needs_no_rank() -> None:
    failure = failed("diverged", "nan")
    assert decide_outcome([failure]) is failure
    assert str(decide_outcome([WorkerGone("ended by SIGKILL")])) == "ended by SIGKILL"
