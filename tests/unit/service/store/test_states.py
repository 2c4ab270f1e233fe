"""Every action and report in every state follows TRANSITIONS, or is refused and changes nothing."""

from collections.abc import Awaitable, Callable
from itertools import count, pairwise

import pytest

from service.errors import Conflict, NotFound
from service.jobs import ACTIONS as POSSIBLE
from service.jobs import ACTIVE, TERMINAL, TRANSITIONS, Status
from service.store import Database, Session, events, extensions, jobs
from service.store.attempts import Fenced
from tests.unit.service.store.acting import FINAL, PASSING, Worker, create, history, status

pytestmark = pytest.mark.anyio

Verb = Callable[..., Awaitable[object]]


def verb(act: Verb) -> Callable[[Worker], Awaitable[None]]:
    """Apply an action of the API to the worker's job."""

    async def on_the_job(worker: Worker) -> None:
        async with worker.database.write() as session:
            await act(session, worker.job)

    return on_the_job


async def extend(session: Session, job_id: str) -> object:
    """Continue a job for one more epoch."""
    return await extensions.extend(session, job_id, 31)


VERBS = {name: verb(getattr(jobs, name)) for name in ("cancel", "pause", "resume", "retry", "delete")}
VERBS |= {"extend": verb(extend)}
REPORTS: dict[str, Callable[[Worker], Awaitable[None]]] = {
    "started": lambda worker: worker.start(),
    "finished: succeeded": lambda worker: worker.finish("succeeded"),
    "finished: paused": lambda worker: worker.finish("paused"),
    "finished: cancelled": lambda worker: worker.finish("cancelled"),
    "finished: failed": lambda worker: worker.finish("failed", FINAL),
    "finished: failed, may pass": lambda worker: worker.finish("failed", PASSING),
    "lost": lambda worker: worker.lose(),
    "lost too often": lambda worker: worker.lose(max_lost=1),
    "died": lambda worker: worker.fail(FINAL),
    "died, may pass": lambda worker: worker.fail(PASSING),
}
ACTIONS = VERBS | REPORTS
Expected = dict[str, Status | type[Exception]]
FENCED: Expected = dict.fromkeys(REPORTS, Fenced)
GONE: type[Exception] = NotFound
Q, S, R = Status.QUEUED, Status.STARTING, Status.RUNNING

EXPECTED: dict[Status, Expected] = {
    Status.QUEUED: FENCED
    | {
        "cancel": Status.CANCELLED,
        "pause": Status.PAUSED,
        "resume": Q,
        "retry": Conflict,
        "extend": Conflict,
        "delete": Conflict,
    },
    Status.STARTING: {
        "cancel": Status.CANCELLING,
        "pause": Status.PAUSING,
        "resume": S,
        "retry": Conflict,
        "extend": Conflict,
        "delete": Conflict,
        "started": R,
        "finished: succeeded": AssertionError,
        "finished: paused": Q,
        "finished: cancelled": Q,
        "finished: failed": Status.FAILED,
        "finished: failed, may pass": Q,
        "lost": Q,
        "lost too often": Status.FAILED,
        "died": Status.FAILED,
        "died, may pass": Q,
    },
    Status.RUNNING: {
        "cancel": Status.CANCELLING,
        "pause": Status.PAUSING,
        "resume": R,
        "retry": Conflict,
        "extend": Conflict,
        "delete": Conflict,
        "started": R,
        "finished: succeeded": Status.SUCCEEDED,
        "finished: paused": Q,
        "finished: cancelled": Q,
        "finished: failed": Status.FAILED,
        "finished: failed, may pass": Q,
        "lost": Q,
        "lost too often": Status.FAILED,
        "died": Status.FAILED,
        "died, may pass": Q,
    },
    Status.PAUSING: {
        "cancel": Status.CANCELLING,
        "pause": Status.PAUSING,
        "resume": Conflict,
        "retry": Conflict,
        "extend": Conflict,
        "delete": Conflict,
        "started": Status.PAUSING,
        "finished: succeeded": Status.SUCCEEDED,
        "finished: paused": Status.PAUSED,
        "finished: cancelled": Status.PAUSED,
        "finished: failed": Status.FAILED,
        "finished: failed, may pass": Status.PAUSED,
        "lost": Status.PAUSED,
        "lost too often": Status.FAILED,
        "died": Status.FAILED,
        "died, may pass": Status.PAUSED,
    },
    Status.PAUSED: FENCED
    | {
        "cancel": Status.CANCELLED,
        "pause": Status.PAUSED,
        "resume": Q,
        "retry": Conflict,
        "extend": Conflict,
        "delete": Conflict,
    },
    Status.CANCELLING: {
        "cancel": Status.CANCELLING,
        "pause": Conflict,
        "resume": Conflict,
        "retry": Conflict,
        "extend": Conflict,
        "delete": Conflict,
        "started": Status.CANCELLING,
        "finished: succeeded": Status.SUCCEEDED,
        "finished: paused": Status.CANCELLED,
        "finished: cancelled": Status.CANCELLED,
        "finished: failed": Status.CANCELLED,
        "finished: failed, may pass": Status.CANCELLED,
        "lost": Status.CANCELLED,
        "lost too often": Status.CANCELLED,
        "died": Status.CANCELLED,
        "died, may pass": Status.CANCELLED,
    },
    Status.SUCCEEDED: FENCED
    | {
        "cancel": Conflict,
        "pause": Conflict,
        "resume": Conflict,
        "retry": Conflict,
        "extend": Status.SUCCEEDED,
        "delete": GONE,
    },
    Status.FAILED: FENCED
    | {
        "cancel": Conflict,
        "pause": Conflict,
        "resume": Conflict,
        "retry": Status.FAILED,
        "extend": Conflict,
        "delete": GONE,
    },
    Status.CANCELLED: FENCED
    | {
        "cancel": Status.CANCELLED,
        "pause": Conflict,
        "resume": Conflict,
        "retry": Status.CANCELLED,
        "extend": Conflict,
        "delete": GONE,
    },
}
"""The state in which each action leaves a job, or the error with which it is refused. LOST is passed through only."""

_priorities = count()


async def reach(database: Database, to: Status) -> Worker:
    """Return a job in a state, and the worker that holds it or held it last. The newest job is claimed next."""
    await create(database, priority=next(_priorities), name=f"to be {to}", schedule={"type": "constant"})
    worker = await Worker.claim(database)
    if to in (Status.RUNNING, Status.SUCCEEDED, Status.PAUSED):
        await worker.start()
    match to:
        case Status.QUEUED:
            await worker.lose()
        case Status.PAUSING:
            await VERBS["pause"](worker)
        case Status.PAUSED:
            await VERBS["pause"](worker)
            await worker.finish("paused")
        case Status.CANCELLING:
            await VERBS["cancel"](worker)
        case Status.SUCCEEDED:
            await worker.checkpoint(90, 30)
            await worker.finish()
        case Status.FAILED:
            await worker.fail(FINAL)
        case Status.CANCELLED:
            await VERBS["cancel"](worker)
            await worker.finish("cancelled")
    assert await status(database, worker.job) is to
    return worker


async def everything(database: Database, job_id: str) -> list[object]:
    """Return everything that the store has of a job."""
    async with database.read() as session:
        job = await jobs.get(session, job_id)
        columns = {column.key: getattr(job, column.key) for column in job.__table__.columns}
        attempts = [(a.id, a.last_seq, a.outcome, a.ended_at) for a in await jobs.attempts(session, job_id)]
        return [columns, attempts, [event.id for event in await events.after(session, 0, job_id=job_id)]]


def test_every_state_meets_every_action() -> None:
    assert set(EXPECTED) == set(Status) - {Status.LOST}
    assert all(set(actions) == set(ACTIONS) for actions in EXPECTED.values())


@pytest.mark.parametrize("state", EXPECTED)
async def test_a_state_moves_as_it_may_or_refuses_and_leaves_no_trace(database: Database, state: Status) -> None:
    for name, expected in EXPECTED[state].items():
        worker = await reach(database, state)
        before = await everything(database, worker.job)
        past = await history(database, worker.job)
        if isinstance(expected, Status):
            await ACTIONS[name](worker)
            after = await status(database, worker.job)
            assert after is expected, f"{name} in {state} leads to {after}"
            path = await history(database, worker.job)
            assert path[: len(past)] == past
            assert path[0] is Status.QUEUED
            assert path[-1] is after
            assert all(b in TRANSITIONS[a] for a, b in pairwise(path)), path
            if after is state and name in VERBS:
                assert await everything(database, worker.job) == before, f"repeating {name} in {state} is harmless"
        elif expected is GONE:
            await ACTIONS[name](worker)
            with pytest.raises(NotFound):
                await status(database, worker.job)
        else:
            with pytest.raises(expected):
                await ACTIONS[name](worker)
            assert await everything(database, worker.job) == before, f"{name} in {state} left a trace"
        if expected is not GONE:
            await end(worker)


async def end(worker: Worker) -> None:
    """Cancel the job, so that no later step claims it."""
    if await status(worker.database, worker.job) not in TERMINAL:
        await VERBS["cancel"](worker)
        if await status(worker.database, worker.job) in ACTIVE:
            await worker.lose()


@pytest.mark.parametrize("state", [state for state in Status if state in EXPECTED])
def test_the_actions_of_a_status_are_the_verbs_that_change_a_job_in_it(state: Status) -> None:
    # A retry and an extension do not change the job; they create another one.
    repeated = {name for name in VERBS if EXPECTED[state][name] is state and name not in ("retry", "extend")}
    changing = {name for name in VERBS if EXPECTED[state][name] is not Conflict} - repeated
    assert {str(action) for action in POSSIBLE[state]} == changing


async def test_a_refusal_says_the_state_and_what_can_be_done(database: Database) -> None:
    worker = await reach(database, Status.SUCCEEDED)
    sentences = {
        "cancel": f"Job {worker.job} has succeeded and cannot be cancelled.",
        "pause": f"Job {worker.job} has succeeded and cannot be paused: only a queued or running job can.",
        "resume": f"Job {worker.job} has succeeded and cannot be resumed: only a paused job can.",
        "retry": f"Job {worker.job} has succeeded and cannot be retried: only a failed or cancelled job can.",
    }
    for name, sentence in sentences.items():
        with pytest.raises(Conflict) as refusal:
            await VERBS[name](worker)
        assert str(refusal.value) == sentence
    cancelled = await reach(database, Status.CANCELLED)
    with pytest.raises(Conflict, match="has been cancelled and cannot be paused"):
        await VERBS["pause"](cancelled)
    with pytest.raises(Conflict, match="has been cancelled and cannot be extended: only a job that has succeeded can"):
        await VERBS["extend"](cancelled)
    with pytest.raises(Conflict, match="is running: cancel it before it is deleted"):
        await VERBS["delete"](await reach(database, Status.RUNNING))


async def test_a_state_that_does_not_follow_is_an_error_of_ours(database: Database) -> None:
    job_id = await create(database)
    for to in set(Status) - TRANSITIONS[Status.QUEUED]:
        async with database.write() as session:
            job = await jobs.get(session, job_id, lock=True)
            with pytest.raises(AssertionError, match=f"cannot go from queued to {to}"):
                await jobs.change_status(session, job, to)
    assert await history(database, job_id) == [Status.QUEUED]


async def test_a_job_that_ended_says_when(database: Database) -> None:
    for state in TERMINAL:
        worker = await reach(database, state)
        async with database.read() as session:
            job = await jobs.get(session, worker.job)
            assert job.finished_at is not None
            assert job.started_at is not None
            assert job.created_at <= job.started_at <= job.finished_at


async def test_a_retry_is_a_new_job_with_the_same_spec_and_the_same_one_each_time(database: Database) -> None:
    given = {"recipe": "wu-he", "batch_size": 4, "labels": {"study": "paper"}, "max_retries": 7, "name": "gn at 4"}
    await create(database, **given)
    worker = await Worker.claim(database)
    await worker.fail(FINAL)
    async with database.write() as session:
        first = await jobs.retry(session, worker.job)
    async with database.write() as session:
        second = await jobs.retry(session, worker.job)
        original = await jobs.get(session, worker.job)
        assert second.id == first.id != worker.job
        assert second.retry_of == worker.job
        assert second.status is Status.QUEUED
        assert second.spec == original.spec
        assert (second.name, second.max_retries, second.failures) == ("gn at 4", 7, 0)
        assert (await jobs.labels(session, [second.id]))[second.id] == {"study": "paper"}


async def test_what_does_not_exist_is_not_found(database: Database) -> None:
    for job_id in ("job_00000000000000000000000000", "", "\0", "\ud800"):
        for name in VERBS:
            with pytest.raises(NotFound):
                await VERBS[name](Worker(database, job_id, ""))
