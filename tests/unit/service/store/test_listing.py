"""Lists of jobs: filters, sorting, and pages that neither repeat nor skip jobs while others are added."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from sqlalchemy import delete, select

from service.errors import Unprocessable
from service.experiments.quantities import Condition
from service.jobs import Status
from service.store import Database, jobs
from service.store.listing import JobFilter, page
from service.store.ordering import NAMES, PATTERN, Order, SortField
from service.store.submitters import Submitter
from service.store.tables import Attempt, Job
from tests.unit.service.store.acting import Worker, create, request, row

pytestmark = pytest.mark.anyio

FIELDS = get_args(SortField)


async def names(database: Database, **wanted: Any) -> list[str]:
    async with database.read() as session:
        found, _ = await page(session, JobFilter(**wanted), sort="created_at")
        return [job.name for job in found]


async def every_page(database: Database, sort: str, limit: int) -> list[Job]:
    found: list[Job] = []
    cursor: str | None = None
    while True:
        async with database.read() as session:
            some, cursor = await page(session, JobFilter(), sort=sort, limit=limit, cursor=cursor)
        found += some
        if cursor is None:
            return found
        assert len(some) == limit


async def a_dozen(database: Database) -> None:
    """Jobs that are equal in everything except their id."""
    for n in range(12):
        await create(
            database,
            name=f"job {n % 3}",
            model=["resnet20", "vgg"][n % 2],
            batch_size=[2, 4, 32][n % 3],
            priority=n % 2,
            normalization={"type": ["batch", "group"][n % 2]},
            labels={"study": "paper" if n < 2 else "other", "n": str(n)},
            seed=n % 4,
        )
    async with database.write() as session:
        found, _ = await page(session, JobFilter(seed=[0]))
        for job in found:
            await jobs.cancel(session, job.id)


async def test_each_filter_finds_what_it_names(database: Database) -> None:
    await create(database, name="first", batch_size=2, labels={"study": "paper", "who": "ann"})
    moment = datetime.now(UTC)
    await create(database, name="100%_Second", batch_size=4, normalization={"type": "batch"}, seed=7)
    async with database.write() as session:
        third = request(name="third", model="vgg", batch_size=32, labels={"study": "other", "who": "ann"})
        await jobs.create(session, third, experiment_id="experiment_1", by=Submitter("ada"))
    worker = await Worker.claim(database)
    await worker.start()

    assert await names(database) == ["first", "100%_Second", "third"]
    assert await names(database, status=[Status.RUNNING]) == ["first"]
    assert await names(database, status=[Status.RUNNING, Status.QUEUED]) == ["first", "100%_Second", "third"]
    assert await names(database, normalization=["batch"]) == ["100%_Second"]
    assert await names(database, batch_size=[2, 32]) == ["first", "third"]
    assert await names(database, model=["vgg"]) == ["third"]
    assert await names(database, seed=[7]) == ["100%_Second"]
    assert await names(database, experiment="experiment_1") == ["third"]
    assert await names(database, submitted_by=["ada"]) == ["third"]
    assert await names(database, submitted_by=["bob"]) == []
    assert await names(database, created_after=moment) == ["100%_Second", "third"]
    assert await names(database, created_after=moment.astimezone().replace(microsecond=0) + timedelta(1)) == []
    assert await names(database, labels={"who": "ann"}) == ["first", "third"]
    assert await names(database, labels={"who": "ann", "study": "paper"}) == ["first"]
    assert await names(database, labels={"study": ["paper", "other"]}) == ["first", "third"]
    assert await names(database, labels={"study": "ann"}) == []
    assert await names(database, search="seco") == ["100%_Second"]
    assert await names(database, search="%") == ["100%_Second"]
    assert await names(database, search="_") == ["100%_Second"]
    assert await names(database, search="\\") == []
    assert await names(database, search="\0") == []
    assert await names(database, model=["vgg"], seed=[7]) == []
    async with database.read() as session:
        assert set(await session.scalars(JobFilter(model=["vgg"]).job_ids())) == {
            job.id for job in (await page(session, JobFilter(model=["vgg"])))[0]
        }


async def test_pages_in_any_order_hold_each_job_once(database: Database) -> None:
    await a_dozen(database)
    for field in FIELDS:
        for sort in (field, f"-{field}"):
            found = await every_page(database, sort, limit=5)
            assert len({job.id for job in found}) == len(found) == 12
            keys = [(getattr(job, field), job.id) for job in found]
            assert keys == sorted(keys, reverse=sort.startswith("-")), sort


ERRORS = (0.5, None, 0.25, 0.5, None, 0.125, 0.5, 1.0, 0.0, None, 0.25, 0.3)
"""The final errors of twelve jobs, in the order of their creation."""


async def with_errors(database: Database) -> dict[str, float | None]:
    """Create twelve jobs, most with an error whose best value is a quarter of the last. Returns the last by job."""
    for n in range(len(ERRORS)):
        await create(database, name=f"job {n % 3}", seed=n)
    found: dict[str, float | None] = {}
    for error in ERRORS:
        worker = await Worker.run(database)
        if error is not None:
            await worker.report(row(1, test_error=error / 4), row(2, test_error=error))
        await worker.finish()
        found[worker.job] = error
    return found


def in_order(found: list[Job], sort: str, errors: dict[str, float | None]) -> list[Job]:
    """Sort `found` by several fields: stable sorts by one field each, the least significant first."""
    keys = sort.split(",")
    for key in reversed([*keys, "-id" if keys[-1].startswith("-") else "id"]):
        name, descending = key.removeprefix("-").removesuffix(".best"), key.startswith("-")

        def value(job: Job, name: str = name) -> Any:
            return errors[job.id] if name == "test_error" else None if name == "test_loss" else getattr(job, name)

        having = [job for job in found if value(job) is not None]
        without = [job for job in found if value(job) is None]
        found = sorted(having, key=value, reverse=descending) + without
    return found


@pytest.mark.parametrize(
    "sort",
    [
        "test_error",
        "-test_error",
        "-test_error.best",
        "test_error,-created_at",
        "-test_error,name,seed",
        "name,-test_error",
        "-test_loss,test_error",
        "test_loss",
    ],
)
async def test_jobs_are_sorted_by_metrics_those_without_one_last(database: Database, sort: str) -> None:
    errors = await with_errors(database)
    for limit in (1, 3, 5, 50):
        found = await every_page(database, sort, limit)
        assert [(job.seed, job.name) for job in found] == [(j.seed, j.name) for j in in_order(found, sort, errors)]
        assert len({job.id for job in found}) == 12


async def test_a_metric_sorts_by_what_counts_by_now(database: Database) -> None:
    first, second = await create(database), await create(database)
    worker = await Worker.run(database)
    await worker.report(row(1, test_error=0.5))
    await worker.checkpoint(1)
    await worker.report(row(2, test_error=0.1))
    other = await Worker.run(database)
    await other.report(row(1, test_error=0.3))
    assert [job.id for job in await every_page(database, "test_error", 5)] == [first, second]
    await worker.lose()
    await Worker.run(database, resumed_from_step=1)
    assert [job.id for job in await every_page(database, "test_error", 5)] == [second, first]
    async with database.write() as session:
        await session.execute(delete(Job).where(Job.id == second))
    assert [job.id for job in await every_page(database, "test_error", 5)] == [first]


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "batch_size", "-name"])
async def test_pages_stay_put_while_jobs_are_added(database: Database, sort: str) -> None:
    await a_dozen(database)
    there = [job.id for job in await every_page(database, sort, limit=100)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        async with database.read() as session:
            some, cursor = await page(session, JobFilter(), sort=sort, limit=3, cursor=cursor)
        seen += [job.id for job in some]
        if cursor is None:
            break
        if len(seen) < 12:
            await create(database, name="job 1", batch_size=4)
    assert len(seen) == len(set(seen)), "a job came twice"
    assert [job_id for job_id in seen if job_id in there] == there, "a job was passed by, or out of order"


async def test_a_full_last_page_has_no_cursor(database: Database) -> None:
    for _ in range(4):
        await create(database)
    async with database.read() as session:
        _, cursor = await page(session, JobFilter(), limit=2)
        some, end = await page(session, JobFilter(), limit=2, cursor=cursor)
    assert (len(some), end) == (2, None)


def made_up(*content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


async def test_a_made_up_value_in_a_cursor_is_refused_or_finds_something(database: Database) -> None:
    await create(database)
    values: list[object] = [
        None,
        True,
        -1,
        2**70,
        1.5,
        "",
        "x",
        "\0",
        "\ud800",
        [],
        {},
        float("nan"),
        float("inf"),
        "2026-01-01",
        "0001-01-01T00:00:00+14:00",
    ]
    refused = 0
    for name in NAMES:
        for value in values:
            async with database.read() as session:
                try:
                    await page(session, JobFilter(), sort=name, cursor=made_up(name, [value], "job_1"))
                except Unprocessable:
                    refused += 1
    assert refused >= len(NAMES) * 7


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "AAAA",
        "[" * 50_000,
        base64.urlsafe_b64encode(b"[" * 50_000).decode(),
        made_up(),
        made_up("-created_at", ["2026-01-01T00:00:00+00:00"]),
        made_up("-created_at", "2026-01-01T00:00:00+00:00", "job_1"),
        made_up("created_at", ["2026-01-01T00:00:00+00:00"], "job_1"),
        made_up("-created_at", ["2026-01-01T00:00:00+00:00"], 1),
        made_up("-created_at", ["2026-01-01T00:00:00+00:00"], "\0"),
        made_up("-created_at", [5], "job_1"),
        made_up("-created_at", [], "job_1"),
        made_up("-created_at", None, "job_1"),
    ],
    ids=range(15),
)
async def test_a_cursor_that_no_page_gave_is_refused(database: Database, cursor: str) -> None:
    async with database.read() as session:
        with pytest.raises(Unprocessable, match=r"^cursor is .*: give next_cursor of a page with the same sort\.$"):
            await page(session, JobFilter(), cursor=cursor)


async def test_an_unknown_order_is_refused_with_those_there_are(database: Database) -> None:
    for sort in ("", "-", "id", "--name", "spec", "name,", "name,nothing", "a.b.c", "name.best", "x" * 200, "labels."):
        async with database.read() as session:
            with pytest.raises(Unprocessable, match=r"give up to 4 sort keys, comma-.* created_at, .*test_error"):
                await page(session, JobFilter(), sort=sort)


WHERE = {
    "batch_size:4": {"second"},
    "seed:9007199254740993": {"third"},
    "seed:9007199254740992": set(),
    "optimizer.learning_rate:0.05": {"second"},
    "optimizer.learning_rate>=0.05": {"first", "second"},
    "optimizer.learning_rate<0.05": {"third"},
    "normalization.num_groups:4": {"first"},
    "normalization.num_groups:null": {"second"},
    "normalization.num_groups>4": {"third"},
    "normalization.type:batch": {"second"},
    "drop_last:false": {"third"},
    "drop_last:true": {"first", "second"},
    "dataset.train_limit:null": {"first"},
    "schedule.milestones:[0.25,0.5]": {"third"},
    "label_smoothing:0": {"first", "second"},
    "label_smoothing>0": {"third"},
    "ema:null": {"first", "second", "third"},
    "labels.study:a:b<c": {"first"},
    "labels.study:none": set(),
    "test_error<0.3": {"first"},
    "test_error.best<=0.2": {"first", "second"},
    "learning_rate.best>0.5": {"second"},
    "duration_s>=0": {"first", "second"},
}


async def three_that_differ(database: Database) -> None:
    limited = {"train_limit": 1000}
    multistep = {"type": "multistep", "milestones": [0.25, 0.5]}
    grouped = {"type": "group", "num_groups": 4}
    await create(database, name="first", batch_size=2, normalization=grouped, labels={"study": "a:b<c"})
    await create(
        database,
        name="second",
        batch_size=4,
        normalization={"type": "batch"},
        optimizer={"type": "sgd", "learning_rate": 0.05},
        dataset=limited,
        labels={"study": "other"},
    )
    await create(
        database,
        name="third",
        batch_size=32,
        optimizer={"type": "sgd", "learning_rate": 1e-5},
        seed=2**53 + 1,
        drop_last=False,
        schedule=multistep,
        dataset=limited,
        label_smoothing=0.1,
    )
    for error, rate in ((0.25, 0.1), (0.4, 1.0)):
        worker = await Worker.run(database)
        await worker.report(row(1, test_error=error / 2, learning_rate=rate), row(2, test_error=error))
        await worker.finish()


async def test_any_field_label_and_metric_filters(database: Database) -> None:
    await three_that_differ(database)
    found = {text: set(await names(database, where=[Condition.parse(text)])) for text in WHERE}
    assert found == WHERE
    several = [Condition.parse(text) for text in ("batch_size:2", "batch_size:4", "seed>=0", "test_error<0.3")]
    assert await names(database, where=several) == ["first"]


async def test_fields_that_an_earlier_release_did_not_store_have_their_defaults(database: Database) -> None:
    await three_that_differ(database)
    async with database.write() as session:
        for job in await session.scalars(select(Job)):
            job.spec = {name: value for name, value in job.spec.items() if name not in ("label_smoothing", "ema")}
    for text in ("label_smoothing:0", "label_smoothing<0.1", "ema:null", "ema.decay:null"):
        assert len(await names(database, where=[Condition.parse(text)])) == 3, text
    assert await names(database, where=[Condition.parse("label_smoothing:0.1")]) == []
    assert len(await every_page(database, "label_smoothing", limit=2)) == 3


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("optimizer.learning_rate", ["third", "second", "first"]),
        ("-optimizer.learning_rate", ["first", "second", "third"]),
        ("normalization.num_groups", ["first", "third", "second"]),
        ("drop_last,name", ["third", "first", "second"]),
        ("labels.study", ["first", "second", "third"]),
        ("-labels.study", ["second", "first", "third"]),
        ("-learning_rate", ["second", "first", "third"]),
        ("dataset.train_limit,-name", ["third", "second", "first"]),
        ("-test_error,labels.study", ["second", "first", "third"]),
    ],
)
async def test_jobs_are_sorted_by_any_quantity_those_without_one_last(
    database: Database, sort: str, expected: list[str]
) -> None:
    await three_that_differ(database)
    for limit in (1, 2, 3):
        assert [job.name for job in await every_page(database, sort, limit)] == expected, limit


async def test_the_longest_jobs_come_first(database: Database) -> None:
    await three_that_differ(database)
    async with database.write() as session:
        for seconds, attempt in enumerate(await session.scalars(select(Attempt).order_by(Attempt.started_at))):
            attempt.ended_at = attempt.started_at + timedelta(seconds=10.5 + seconds)
    assert [job.name for job in await every_page(database, "-duration_s", 1)] == ["second", "first", "third"]
    found = [Condition.parse("duration_s>10.75"), Condition.parse("duration_s<11.75")]
    assert await names(database, where=found) == ["second"]


def test_an_order_says_each_thing_once() -> None:
    order = Order.parse("-test_error,name,test_error,-name")
    assert [(key.name, key.descending) for key in order.keys] == [("test_error", True), ("name", False)]
    assert re.search(PATTERN, order.text)
    with pytest.raises(Unprocessable):
        Order.parse("name,seed,model,status,priority")
