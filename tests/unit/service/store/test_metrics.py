"""Every epoch has exactly one live row after any losses, and the summary always agrees with the live rows."""

from dataclasses import dataclass
from itertools import groupby

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from service.jobs import Status
from service.store import Database, jobs, metrics
from service.store.tables import Metric
from tests.unit.service.store.acting import Worker, create, live_rows, row
from worker.events import Event

pytestmark = pytest.mark.anyio

STEPS_PER_EPOCH, EPOCHS = 3, 7
LAST = STEPS_PER_EPOCH * EPOCHS


@dataclass(frozen=True)
class Run:
    """An attempt that trains `steps` with checkpoints, and starts `back` checkpoints before the newest one."""

    steps: int
    checkpoints: frozenset[int]
    back: int
    polls_of: int


RUNS = st.lists(
    st.builds(
        Run,
        steps=st.integers(0, LAST),
        checkpoints=st.frozensets(st.integers(1, LAST)),
        back=st.integers(0, 2),
        polls_of=st.integers(1, 7),
    ),
    max_size=5,
)


def rows_at(step: int, attempt: int) -> list[Event]:
    """Return the metrics after a step, a function of the step except for the throughput."""
    epoch = (step - 1) // STEPS_PER_EPOCH + 1
    reported: list[Event] = [
        row(step, "train", epoch, train_loss=(step * 7) % 5 + 0.5, images_per_s=float(100 * attempt + step))
    ]
    if step % STEPS_PER_EPOCH == 0:
        reported.append(row(step, "eval", epoch, test_error=((epoch * 3) % 4) / 4))
    return reported


@given(runs=RUNS)
@example(runs=[Run(steps=3, checkpoints=frozenset({3}), back=0, polls_of=1), Run(1, frozenset(), 1, 1)])
@settings(
    max_examples=7,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)
async def test_every_epoch_has_exactly_one_live_row_whatever_is_lost(database: Database, runs: list[Run]) -> None:
    job_id = await create(database)
    taken: list[int] = [0]
    live: dict[tuple[str, int], str] = {}
    newest: dict[tuple[str, int], str] = {}
    everything = 0
    last = Run(steps=LAST, checkpoints=frozenset(), back=0, polls_of=4)
    for number, run in enumerate([*runs, last]):
        worker = await Worker.claim(database)
        assert worker.job == job_id
        resumed_from = sorted(taken)[max(0, len(taken) - 1 - run.back)]
        await worker.start(resumed_from)
        live = {key: live.get(key, attempt) for key, attempt in newest.items() if key[1] <= resumed_from}
        pending: list[Event] = []
        for step in range(resumed_from + 1, min(resumed_from + run.steps, LAST) + 1):
            pending += rows_at(step, number)
            if step in run.checkpoints:
                await worker.report(*pending)
                await worker.checkpoint(step)
                taken.append(step)
                pending = []
        for start in range(0, len(pending), run.polls_of):
            await worker.report(*pending[start : start + run.polls_of])
        for step in range(resumed_from + 1, min(resumed_from + run.steps, LAST) + 1):
            for kind in ("train", "eval") if step % STEPS_PER_EPOCH == 0 else ("train",):
                live[kind, step] = newest[kind, step] = worker.attempt
                everything += 1
        if run is last:
            await worker.finish()
        else:
            await worker.lose(max_lost=100)
        found = await live_rows(database, job_id)
        assert len(found) == len(live)
        assert {(kind, step): attempt for kind, step, attempt in found} == live
        await assert_the_summary_is_of_the_live_rows(database, job_id, everything)
    evaluated = [step for _, step, _ in await live_rows(database, job_id, "eval")]
    assert evaluated == [STEPS_PER_EPOCH * epoch for epoch in range(1, EPOCHS + 1)]


async def assert_the_summary_is_of_the_live_rows(database: Database, job_id: str, everything: int) -> None:
    """Compute the summary independently, in one pass over the rows."""
    async with database.read() as session:
        summary = (await jobs.get(session, job_id)).summary
        rows = await metrics.rows(session, job_id)
        assert len(await metrics.rows(session, job_id, superseded=True)) == everything, "nothing is thrown away"
    measured = sorted((name, row.step, value) for row in rows for name, value in row.values.items())
    expected: dict[str, dict[str, object]] = {}
    for name, group in groupby(measured, key=lambda entry: entry[0]):
        values = [(value, step) for _, step, value in group]
        best, at = min(values, key=lambda v: (-v[0] if name == "images_per_s" else v[0], v[1]))
        expected[name] = {"best": best, "best_step": at, "last": values[-1][0], "last_step": values[-1][1]}
        if name == "test_error":
            expected[name]["last_5"] = [value for value, _ in values[-5:]]
    assert summary == expected


async def test_the_database_itself_refuses_a_second_live_row(database: Database) -> None:
    await create(database)
    worker = await Worker.run(database)
    await worker.report(row(3))
    with pytest.raises(Exception, match=r"(?i)unique"):
        await worker.report(row(3))
    assert len(await live_rows(database, worker.job)) == 1


async def test_what_is_not_finite_is_null_and_marked(database: Database) -> None:
    await create(database)
    worker = await Worker.run(database)
    await worker.report(row(1, train_loss=2.5), row(2, train_loss=float("nan"), train_error=0.5))
    await worker.report(row(3, train_loss=float("inf")), row(4, train_loss=float("-inf")))
    async with database.read() as session:
        found = [stored.values for stored in await metrics.rows(session, worker.job)]
        summary = (await jobs.get(session, worker.job)).summary
    assert found == [
        {"train_loss": 2.5},
        {"train_loss": None, "train_error": 0.5, "diverged": True},
        {"train_loss": None, "diverged": True},
        {"train_loss": None, "diverged": True},
    ]
    assert summary["train_loss"] == {"best": 2.5, "best_step": 1, "last": 2.5, "last_step": 1}
    assert set(summary) == {"train_loss", "train_error"}


async def test_rows_are_found_by_kind_and_step(database: Database) -> None:
    await create(database)
    worker = await Worker.run(database)
    await worker.report(row(1, "train"), row(2, "train"), row(2, "eval"), row(3, "train"))

    async def steps(**wanted: object) -> list[tuple[str, int]]:
        async with database.read() as session:
            return [(r.kind, r.step) for r in await metrics.rows(session, worker.job, **wanted)]  # type: ignore[arg-type]

    assert await steps() == [("train", 1), ("train", 2), ("eval", 2), ("train", 3)]
    assert await steps(kinds=["eval"]) == [("eval", 2)]
    assert await steps(kinds=["train"], after_step=1) == [("train", 2), ("train", 3)]
    assert await steps(after_step=3) == []


async def test_superseded_rows_remain_and_are_marked(database: Database) -> None:
    await create(database)
    first = await Worker.run(database)
    await first.report(row(3), row(6))
    await first.lose()
    second = await Worker.run(database, resumed_from_step=3)
    await second.report(row(6))
    async with database.read() as session:
        found: list[Metric] = list(await metrics.rows(session, first.job, superseded=True))
        assert (await jobs.get(session, first.job)).status is Status.RUNNING
    assert [(r.step, r.attempt_id == second.attempt, r.superseded) for r in found] == [
        (3, False, False),
        (6, False, True),
        (6, True, False),
    ]


async def test_telemetry_is_kept_and_is_in_no_summary(database: Database) -> None:
    job_id = await create(database)
    worker = await Worker.run(database)
    await worker.report(row(1, test_error=0.5), row(1, "telemetry", eval_mode_error=0.25))
    await worker.checkpoint(1)
    await worker.report(row(2, "telemetry", eval_mode_error=0.125))
    await worker.lose()
    await Worker.run(database, resumed_from_step=1)
    async with database.read() as session:
        assert set((await jobs.get(session, job_id)).summary) == {"test_error"}
        found = await metrics.rows(session, job_id, kinds=["telemetry"])
        assert [(r.step, r.values) for r in found] == [(1, {"eval_mode_error": 0.25})]


async def test_curves_of_several_jobs_come_in_the_order_asked_for(database: Database) -> None:
    first, second, third = [await create(database) for _ in range(3)]
    worker = await Worker.run(database)
    await worker.report(row(1, test_error=0.5), row(1, "train", train_loss=1.0), row(2, test_error=float("nan")))
    await (await Worker.run(database)).report(row(1, test_loss=0.5))
    async with database.read() as session:
        found = await metrics.curves(session, [third, second, first], ["test_error"])
        trained, tested = await metrics.curves(session, [first], ["train_loss", "test_error"])
    assert [(curve.job_id, curve.steps, curve.values) for curve in found] == [
        (third, [], []),
        (second, [], []),
        (first, [1, 2], [0.5, None]),
    ]
    assert (trained.metric, trained.steps, trained.epochs, trained.values) == ("train_loss", [1], [1], [1.0])
    assert (tested.metric, tested.values) == ("test_error", [0.5, None])


async def test_with_a_holdout_the_best_test_error_is_that_of_the_epoch_that_was_best_there(database: Database) -> None:
    await create(database)
    worker = await Worker.run(database)
    await worker.report(row(1, holdout_error=0.3, test_error=0.25, holdout_loss=0.5, test_loss=0.5))
    await worker.report(row(2, holdout_error=0.2, test_error=0.3, holdout_loss=0.6, test_loss=0.4))
    await worker.report(row(3, holdout_error=0.2, test_error=0.1, holdout_loss=0.7, test_loss=0.3))
    async with database.read() as session:
        summary = (await jobs.get(session, worker.job)).summary
    assert summary["test_error"] == {
        "best": 0.3,
        "best_step": 2,
        "selected": 0.2,
        "last": 0.1,
        "last_step": 3,
        "last_5": [0.25, 0.3, 0.1],
    }
    assert (summary["test_loss"]["best_step"], summary["test_loss"]["selected"]) == (1, 0.5)
    assert (summary["holdout_error"]["best"], summary["holdout_error"]["best_step"]) == (0.2, 2)


async def test_epochs_of_an_earlier_version_have_no_test_error_that_could_be_the_best(database: Database) -> None:
    await create(database)
    worker = await Worker.run(database)
    await worker.report(row(1, holdout_error=0.1), row(2, holdout_error=0.3, test_error=0.4))
    async with database.read() as session:
        summary = (await jobs.get(session, worker.job)).summary
    assert (summary["test_error"]["best"], summary["test_error"]["selected"]) == (0.4, 0.3)
