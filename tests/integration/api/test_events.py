"""Events: none is missed or repeated, whenever a stream starts, breaks or falls behind."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from service import app as app_module
from service.api import tailer as tailer_module
from service.api.routes import events
from service.store import events as stored_events
from service.store.tables import Event
from tests.integration.api.conftest import Listening
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import submit
from worker.events import Finished, Log

pytestmark = pytest.mark.anyio

STREAM = {"Accept": "text/event-stream"}


@dataclass
class Message:
    """A server-sent event."""

    event: str
    data: dict[str, Any]
    id: str | None


async def read(lines: AsyncIterator[str]) -> AsyncIterator[Message]:
    """Parse server-sent events from the lines of a response."""
    fields: dict[str, str] = {}
    async for line in lines:
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "data" in fields:
            yield Message(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}
        else:
            fields = {}


@contextlib.asynccontextmanager
async def stream(url: str, path: str, **headers: str) -> AsyncIterator[AsyncIterator[Message]]:
    """Follow the events at a path of a listening server."""
    async with (
        AsyncClient(base_url=url, timeout=120) as http,
        http.stream("GET", path, headers=STREAM | headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield read(answer.aiter_lines())


async def collect(url: str, path: str, **headers: str) -> list[Message]:
    """Return all events of a stream that ends."""
    async with stream(url, path, **headers) as messages:
        return [message async for message in messages]


@pytest.fixture
def url(listen: Callable[[], Listening]) -> str:
    return listen().url


@pytest.fixture
async def remote(url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(base_url=url) as http:
        yield http


async def test_a_stream_follows_a_job_from_its_first_event_to_its_end(
    remote: AsyncClient, url: str, reporter: Reporter
) -> None:
    job = await submit(remote, dataset={"name": "synthetic", "train_limit": 20})
    async with stream(url, f"/v1/jobs/{job}/events") as messages:
        first = await anext(messages)
        assert (first.event, first.data["status"], first.data["job"]) == ("status", "queued", job)
        await reporter.start()
        await reporter.log("building")
        await reporter.metrics("eval", 1, 10, test_error=0.5)
        checkpoint = await reporter.checkpoint(1, 10, {"state.pt": b"x"}, test_error=0.5)
        await reporter.finish()
        rest = [message async for message in messages]
    durable = [message for message in rest if message.id is not None]
    assert [message.event for message in durable] == [
        "status",
        "status",
        "started",
        "log",
        "metrics",
        "checkpoint",
        "status",
    ]
    ids = [int(message.id or 0) for message in [first, *durable]]
    assert ids == sorted(set(ids))
    by_type = {message.event: message.data for message in durable}
    assert all(data["job"] == job and data["time"].endswith("Z") for data in by_type.values())
    assert by_type["started"]["device"] == "cpu"
    assert (by_type["log"]["level"], by_type["log"]["message"]) == ("info", "building")
    assert (by_type["metrics"]["kind"], by_type["metrics"]["test_error"]) == ("eval", 0.5)
    assert (by_type["checkpoint"]["checkpoint"], by_type["checkpoint"]["step"]) == (checkpoint, 10)
    assert by_type["checkpoint"]["attempt"] == reporter.attempt
    assert (rest[-1].event, rest[-1].data, rest[-1].id) == ("end", {"status": "succeeded"}, None)


async def test_a_stream_of_an_ended_job_replays_it_and_ends(remote: AsyncClient, url: str) -> None:
    job = await submit(remote)
    await remote.post(f"/v1/jobs/{job}/cancel")
    messages = await collect(url, f"/v1/jobs/{job}/events")
    assert [(m.event, m.data["status"]) for m in messages] == [
        ("status", "queued"),
        ("status", "cancelled"),
        ("end", "cancelled"),
    ]
    last = str(messages[1].id)
    for again in (
        await collect(url, f"/v1/jobs/{job}/events", **{"Last-Event-ID": last}),
        await collect(url, f"/v1/jobs/{job}/events?after={last}"),
    ):
        assert [m.event for m in again] == ["end"]


async def test_a_stream_that_broke_off_goes_on_where_it_was_on_another_replica(
    listen: Callable[[], Listening], reporter: Reporter
) -> None:
    first = listen()
    async with AsyncClient(base_url=first.url) as http:
        job = await submit(http)
    await reporter.start()
    seen: list[int] = []
    async with stream(first.url, f"/v1/jobs/{job}/events") as messages:
        for n in range(3):
            await reporter.log(f"before {n}")
        async for message in messages:
            if message.id:
                seen.append(int(message.id))
            if message.data.get("message") == "before 1":
                break
    first.stop()
    for n in range(3):
        await reporter.log(f"meanwhile {n}")
    second = listen()
    async with stream(second.url, f"/v1/jobs/{job}/events", **{"Last-Event-ID": str(seen[-1])}) as messages:
        replayed = await anext(messages)
        assert replayed.data["message"] == "before 2"
        seen.append(int(replayed.id or 0))
        await reporter.log("live")
        await reporter.finish()
        seen += [int(m.id) async for m in messages if m.id]
    page = await _page(second.url, f"/v1/jobs/{job}/events")
    assert seen == [event["id"] for event in page]


async def test_a_stream_without_replay_begins_at_now_and_says_where_that_is(
    remote: AsyncClient, url: str, reporter: Reporter
) -> None:
    job = await submit(remote)
    await reporter.start()
    await reporter.log("long ago")
    ids = [event["id"] for event in await _page(url, "/v1/events")]
    async with (
        AsyncClient(base_url=url, timeout=120) as http,
        http.stream("GET", "/v1/events?replay=false", headers=STREAM) as answer,
    ):
        lines = answer.aiter_lines()
        assert f"id: {ids[-1]}" in {await anext(lines), await anext(lines)}
        await reporter.log("from now on")
        message = await anext(m async for m in read(lines) if m.event == "log")
    assert (message.data["job"], message.data["message"]) == (job, "from now on")
    assert await _page(url, "/v1/events?replay=false") == []


async def test_a_page_says_after_which_event_to_go_on(remote: AsyncClient, reporter: Reporter) -> None:
    nothing = (await remote.get("/v1/events?replay=false")).json()
    assert nothing == {"data": [], "next_cursor": None, "position": 0}
    job = await submit(remote)
    await reporter.start()
    now = (await remote.get("/v1/events?replay=false")).json()["position"]
    assert (await remote.get("/v1/events")).json()["position"] == now
    assert (await remote.get(f"/v1/jobs/{job}/events", params={"after": now})).json()["position"] == now
    await reporter.log("later")
    page = (await remote.get("/v1/events", params={"after": now})).json()
    assert [event["id"] for event in page["data"]] == [page["position"]]
    assert page["position"] > now
    # An id that this database has not given: there is another database than before.
    assert (await remote.get("/v1/events", params={"after": 999})).json()["position"] == page["position"]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that another task or thread makes true."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.01)


async def _page(url: str, path: str) -> list[dict[str, Any]]:
    async with AsyncClient(base_url=url) as http:
        data: list[dict[str, Any]] = (await http.get(path)).json()["data"]
        return data


async def test_the_last_event_id_of_a_reconnecting_browser_goes_before_its_first_address(
    remote: AsyncClient, url: str
) -> None:
    job = await submit(remote)
    await remote.post(f"/v1/jobs/{job}/cancel")
    ids = [event["id"] for event in await _page(url, f"/v1/jobs/{job}/events")]
    messages = await collect(url, f"/v1/jobs/{job}/events?after=0", **{"Last-Event-ID": str(ids[0])})
    assert [m.id for m in messages] == [str(ids[1]), None]


async def received(http: AsyncClient, path: str, **headers: str) -> list[Message]:
    """Return the events of a stream that ends."""
    answer = await http.get(path, headers=STREAM | headers)
    assert answer.status_code == 200, answer.text

    async def lines() -> AsyncIterator[str]:
        for line in answer.text.split("\n"):
            yield line

    return [message async for message in read(lines())]


async def test_an_id_that_was_never_given_to_an_event_begins_the_stream_anew_and_says_so(http: AsyncClient) -> None:
    job = await submit(http)
    await http.post(f"/v1/jobs/{job}/cancel")
    path = f"/v1/jobs/{job}/events"
    whole = await received(http, path)
    by_header = await received(http, path, **{"Last-Event-ID": "999"})
    assert (by_header[0].event, by_header[0].data, by_header[0].id) == ("reset", {"unknown": 999}, "0")
    assert by_header[1:] == whole
    assert await received(http, f"{path}?after=999") == by_header
    newest = whole[-2].id or ""
    assert [message.event for message in await received(http, path, **{"Last-Event-ID": newest})] == ["end"]
    after_all = await received(http, f"{path}?replay=false", **{"Last-Event-ID": "999"})
    assert [(message.event, message.id) for message in after_all] == [("reset", newest), ("end", None)]


async def test_an_empty_last_event_id_is_none(http: AsyncClient) -> None:
    job = await submit(http)
    await http.post(f"/v1/jobs/{job}/cancel")
    path = f"/v1/jobs/{job}/events"
    assert await received(http, path, **{"Last-Event-ID": ""}) == await received(http, path)


async def test_a_stream_breaks_off_when_the_database_is_replaced_under_it(
    app: FastAPI, http: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(http)
    tailer = app.state.services.tailer
    content: Any = events.EventStream(tailer, events.Start(1)).body_iterator
    await anext(content)

    async def of_another_database(session: object) -> int:
        return 0

    monkeypatch.setattr(stored_events, "last_id_given", of_another_database)
    assert [chunk async for chunk in content] == [], "no `end`: the client reconnects, and is told"


async def test_progress_is_sent_when_it_changes_and_has_no_id(
    remote: AsyncClient, url: str, reporter: Reporter
) -> None:
    job = await submit(remote, dataset={"name": "synthetic", "train_limit": 20})
    await reporter.start()
    async with stream(url, f"/v1/jobs/{job}/events") as messages:
        seen = []
        await reporter.progress(5, images_per_s=10.0, train_loss=2.5)
        async for message in messages:
            if message.event == "progress":
                seen.append(message)
                if message.data["step"] == 5:
                    await reporter.progress(6, images_per_s=None, train_loss=float("nan"))
                else:
                    break
    assert [m.data["step"] for m in seen] == [5, 6]
    assert seen[0].data == {
        "job": job,
        "epoch": 1,
        "epochs": 10,
        "step": 5,
        "total_steps": 100,
        "images_per_s": 10.0,
        "train_loss": 2.5,
        "eta_s": 95 * 2 / 10.0 + 10 * 2000 / (3 * 10.0),
    }
    assert (seen[1].data["train_loss"], seen[1].data["eta_s"]) == (None, None)
    assert all(m.id is None for m in seen)


async def test_a_later_stream_starts_with_the_current_progress(
    remote: AsyncClient, url: str, reporter: Reporter
) -> None:
    job = await submit(remote)
    await reporter.start()
    await reporter.progress(5)
    for _ in range(2):
        async with stream(url, f"/v1/jobs/{job}/events") as messages:
            async for message in messages:
                if message.event == "progress":
                    assert message.data["step"] == 5
                    break


async def test_a_stream_of_all_jobs_has_the_events_of_its_filter(
    remote: AsyncClient, url: str, reporter: Reporter
) -> None:
    await submit(remote, labels={"study": "other"})
    async with (
        stream(url, "/v1/events") as everything,
        stream(url, "/v1/events?label=study:paper") as narrowed,
    ):
        other = await anext(everything)
        wanted = await submit(remote, labels={"study": "paper"})
        assert (
            (await anext(narrowed)).data["job"] == wanted == (await anext(everything)).data["job"] != other.data["job"]
        )
        await remote.post(f"/v1/jobs/{other.data['job']}/cancel")
        await remote.post(f"/v1/jobs/{wanted}/cancel")
        assert [(await anext(everything)).data["job"] for _ in range(2)] == [other.data["job"], wanted]
        last = await anext(narrowed)
        assert (last.data["job"], last.data["status"]) == (wanted, "cancelled")


async def test_a_page_of_events_goes_on_at_its_cursor(http: AsyncClient, reporter: Reporter) -> None:
    job = await submit(http)
    other = await submit(http)
    await reporter.start()
    for n in range(3):
        await reporter.log(str(n))
    for path, jobs in ((f"/v1/jobs/{job}/events", {job}), ("/v1/events", {job, other})):
        whole = (await http.get(path)).json()
        assert whole["next_cursor"] is None
        assert {event["job"] for event in whole["data"]} == jobs
        assert [event["id"] for event in whole["data"]] == sorted(event["id"] for event in whole["data"])
        paged: list[dict[str, Any]] = []
        cursor: str | None = "0"
        while cursor is not None:
            page = (await http.get(path, params={"after": cursor, "limit": 2})).json()
            paged += page["data"]
            cursor = page["next_cursor"]
        assert paged == whole["data"]


async def test_a_page_of_all_events_can_be_filtered(http: AsyncClient) -> None:
    await submit(http, seed=1)
    wanted = await submit(http, seed=2)
    page = (await http.get("/v1/events?seed=2")).json()
    assert [event["job"] for event in page["data"]] == [wanted]


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html, */*;q=0.1", "text/event-stream;q=0"])
async def test_a_stream_is_only_for_those_who_ask_for_one(http: AsyncClient, accept: str) -> None:
    answer = await http.get("/v1/events", headers={"Accept": accept})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs/{job}/events"])
@pytest.mark.parametrize("given", ["x", "-1", "1.5", "²", "9" * 30])
async def test_a_start_that_is_no_id_is_refused_before_the_stream(http: AsyncClient, path: str, given: str) -> None:
    path = path.format(job=await submit(http))
    by_header = await http.get(
        path, headers={b"Accept": STREAM["Accept"].encode(), b"Last-Event-ID": given.encode("latin-1")}
    )
    by_parameter = await http.get(path, params={"after": given}, headers=STREAM)
    for answer in (by_header, by_parameter):
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
    assert by_header.json()["errors"][0]["header"] == "Last-Event-ID"
    assert by_parameter.json()["errors"][0]["parameter"] == "after"


async def test_a_job_that_does_not_exist_is_404_before_the_stream(http: AsyncClient) -> None:
    answer = await http.get("/v1/jobs/job_nothere/events", headers=STREAM)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_long_past_is_replayed_whole(
    app: FastAPI, http: AsyncClient, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PAGE", 3)
    job = await submit(http)
    await reporter.start()
    for n in range(10):
        await reporter.log(str(n))
    await reporter.finish()
    answer = await http.get(f"/v1/jobs/{job}/events", headers=STREAM)
    lines = answer.text.splitlines()
    page = (await http.get(f"/v1/jobs/{job}/events")).json()["data"]
    assert [int(line[4:]) for line in lines if line.startswith("id: ")] == [event["id"] for event in page]
    assert [line for line in lines if line.startswith("event: ")][-1] == "event: end"


async def test_events_that_are_committed_together_arrive_without_a_poll(
    app: FastAPI, http: AsyncClient, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer_module, "PAGE", 2)
    tailer = app.state.services.tailer
    tailer.interval_s = 1000
    job = await submit(http)
    await reporter.start()
    task = asyncio.create_task(http.get(f"/v1/jobs/{job}/events", headers=STREAM, timeout=120))
    await until(lambda: len(tailer) == 1 and tailer.reads > 0)
    await reporter.report(*(Log(message=f"line {number}") for number in range(5)), Finished(outcome="succeeded"))
    answer = await asyncio.wait_for(task, 120)
    assert [f"line {number}" in answer.text for number in range(5)] == [True] * 5
    assert "event: end" in answer.text


async def test_a_client_that_reads_slowly_falls_behind_and_misses_nothing(
    app: FastAPI, http: AsyncClient, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer_module, "BACKLOG", 2)
    tailer = app.state.services.tailer
    job = await submit(http)
    await reporter.start()
    response = events.EventStream(tailer, events.Start(0), job_id=job)
    content: Any = response.body_iterator
    received = [await anext(content) for _ in range(2)]
    reads = tailer.reads
    for n in range(8):
        await reporter.log(str(n))
    await until(lambda: tailer.reads >= reads + 2)  # more events than the buffer of one stream holds
    await reporter.finish()
    received += [chunk async for chunk in content]
    text = b"".join(bytes(chunk) for chunk in received).decode()
    page = (await http.get(f"/v1/jobs/{job}/events")).json()["data"]
    assert [int(line[4:]) for line in text.splitlines() if line.startswith("id: ")] == [e["id"] for e in page]
    assert len(tailer) == 0


async def test_a_hundred_streams_ask_the_database_no_more_often_than_one(
    app: FastAPI, http: AsyncClient, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    tailer = app.state.services.tailer
    job = await submit(http)
    await reporter.start()
    streams = [asyncio.create_task(http.get(f"/v1/jobs/{job}/events", headers=STREAM)) for _ in range(100)]
    await until(lambda: len(tailer) == 100)
    ticks, pause, reads = 0, tailer._pause, tailer.reads

    async def counted(duration_s: float) -> None:
        nonlocal ticks
        ticks += 1
        await pause(duration_s)

    monkeypatch.setattr(tailer, "_pause", counted)

    async def read_again(before: int) -> None:
        await until(lambda: tailer.reads > before)

    for n in range(5):
        before = tailer.reads
        await reporter.log(str(n))
        await read_again(before)
    await reporter.finish()
    answers = await asyncio.wait_for(asyncio.gather(*streams), 120)
    assert tailer.reads - reads <= ticks + 2
    for answer in answers:
        ids = [line for line in answer.text.splitlines() if line.startswith("id: ")]
        assert len(ids) == len(set(ids)) == 4 + 5 + 1
        assert answer.text.endswith('event: end\ndata: {"status": "succeeded"}\n\n')


async def test_an_event_is_encoded_once_for_all_streams(
    app: FastAPI, http: AsyncClient, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    tailer = app.state.services.tailer
    job = await submit(http)
    await reporter.start()
    streams: list[Any] = [events.EventStream(tailer, events.Start(0), job_id=job).body_iterator for _ in range(3)]
    # The tailer, which starts with the first stream, makes all of them read the database once.
    await until(lambda: tailer.reads > 1)
    for content in streams:
        while b"event: started" not in await anext(content):
            pass
    encoded, encode = [], events._encode

    def counted(event: Event) -> bytes:
        encoded.append(event.id)
        return encode(event)

    monkeypatch.setattr(events, "_encode", counted)
    await reporter.log("said once")
    chunks = [await anext(content) for content in streams]
    for content in streams:
        await content.aclose()

    assert all(b"said once" in chunk for chunk in chunks)
    assert len(encoded) == 1


async def test_a_stream_that_comes_back_takes_the_latest_events_from_memory(
    app: FastAPI, http: AsyncClient, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer_module, "RECENT", 3)
    tailer = app.state.services.tailer

    class WithoutDatabase:
        def __getattr__(self, name: str) -> Any:
            assert name != "database"
            return getattr(tailer, name)

    await submit(http)
    await reporter.start()
    first: Any = events.EventStream(tailer, events.Start(0)).body_iterator
    await until(lambda: tailer.reads > 1)
    for number in range(10):
        await reporter.log(f"log {number}")
        while f"log {number}".encode() not in await anext(first):
            pass
    page = (await http.get("/v1/events")).json()["data"]
    ids = [event["id"] for event in page]

    assert tailer.recent(ids[-1] + 1) is None, "an id that this database has not given yet"
    assert tailer.recent(ids[-1] + 1, is_given=True) == []
    assert tailer.recent(0) is None, "events that are not in memory any more"
    assert [event.id for event in tailer.recent(ids[-3])] == ids[-2:]
    response = events.EventStream(tailer, events.Start(ids[-3]))
    monkeypatch.setattr(response, "_tailer", WithoutDatabase())
    second: Any = response.body_iterator
    await anext(second)
    assert [int(line[4:]) for line in (await anext(second)).decode().splitlines() if line.startswith("id: ")] == ids[
        -2:
    ]
    for content in (first, second):
        await content.aclose()
    await until(lambda: tailer.recent(ids[-3]) is None)


async def test_while_nobody_listens_the_database_is_left_alone(app: FastAPI, http: AsyncClient) -> None:
    tailer = app.state.services.tailer
    job = await submit(http)
    await http.post(f"/v1/jobs/{job}/cancel")
    await http.get(f"/v1/jobs/{job}/events", headers=STREAM)
    await until(lambda: not tailer._wanted.is_set())
    reads = tailer.reads
    listened = tailer._notified
    listened.clear()
    await submit(http)
    await until(listened.is_set)
    assert tailer.reads == reads


async def test_no_connection_is_held_while_a_stream_waits(app: FastAPI, http: AsyncClient) -> None:
    services = app.state.services
    job = await submit(http)
    task = asyncio.create_task(http.get(f"/v1/jobs/{job}/events", headers=STREAM, timeout=120))
    await until(lambda: len(services.tailer) > 0)
    services.tailer.interval_s = 30
    reads = services.tailer.reads
    await until(lambda: services.tailer.reads > reads)
    await until(lambda: services.database.engine.pool.checkedout() == 0)
    assert len(services.tailer) == 1
    services.tailer.close()
    await task


async def test_clients_are_told_to_come_back_at_different_times(app: FastAPI) -> None:
    tailer, told = app.state.services.tailer, set()
    for _ in range(20):
        content: Any = events.EventStream(tailer, events.Start(0)).body_iterator
        told.add(int((await anext(content)).removeprefix(b"retry: ")))
        await content.aclose()
    assert len(told) > 10
    assert min(told) >= 1000
    assert max(told) <= 3000


async def test_a_quiet_stream_is_kept_alive(app: FastAPI, http: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.05)
    tailer = app.state.services.tailer
    content: Any = events.EventStream(tailer, events.Start(0)).body_iterator
    assert (await anext(content)).startswith(b"retry: ")
    assert await anext(content) == b": ping\n\n"
    await content.aclose()


async def test_a_database_that_fails_for_a_while_breaks_no_stream(
    app: FastAPI, http: AsyncClient, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer_module, "AFTER_FAILURE_S", 0.05)
    job = await submit(http)
    await reporter.start()
    task = asyncio.create_task(http.get(f"/v1/jobs/{job}/events", headers=STREAM, timeout=120))
    failed = asyncio.Event()
    after = stored_events.after

    async def fail(*arguments: Any, **options: Any) -> Any:
        if options.get("job_id") is None:
            failed.set()
            raise OSError("the database is unavailable")
        return await after(*arguments, **options)

    monkeypatch.setattr(stored_events, "after", fail)
    await failed.wait()
    await reporter.log("while it was gone")
    monkeypatch.setattr(stored_events, "after", after)
    await reporter.finish()
    answer = await asyncio.wait_for(task, 120)
    assert answer.text.count("while it was gone") == 1
    assert "event: end" in answer.text


async def test_streams_beyond_the_maximum_are_503_and_leave_room_for_other_requests(
    listen: Callable[[], Listening], caplog: pytest.LogCaptureFixture
) -> None:
    listening = listen()
    tailer = listening.server.config.app.state.services.tailer  # type: ignore[union-attr]
    tailer.max_streams = 2
    async with (
        stream(listening.url, "/v1/events"),
        AsyncClient(base_url=listening.url, timeout=120) as http,
    ):
        async with stream(listening.url, "/v1/events"):
            for _ in range(3):
                refused = await http.get("/v1/events", headers=STREAM)
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
                assert refused.headers["connection"] == "close"
                assert refused.headers["content-type"] == "application/problem+json"
                assert refused.json()["detail"].startswith("2 event streams are open, the maximum of this process")
            assert (await http.get("/livez")).status_code == 200
            assert (await http.get("/v1/events")).status_code == 200, "pages are not streams"
            assert (await http.get("/v1/events?limit=0", headers=STREAM)).status_code == 422
        await until(lambda: len(tailer) == 1)
        async with stream(listening.url, "/v1/events"):
            pass
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == [
        "2 event streams are open, the maximum: further ones get 503"
    ]


async def test_a_stream_ends_when_its_client_leaves(listen: Callable[[], Listening]) -> None:
    listening = listen()
    app: Any = listening.server.config.app
    tailer = app.state.services.tailer
    async with stream(listening.url, "/v1/events"):
        await until(lambda: len(tailer) > 0)
    await until(lambda: len(tailer) == 0)


async def test_a_stopping_server_ends_its_streams_at_once(
    listen: Callable[[], Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server would wait for open connections.
    monkeypatch.setattr(app_module, "STREAMS_END_S", 3600)
    listening = listen()
    async with AsyncClient(base_url=listening.url) as http:
        job = await submit(http)
    async with stream(listening.url, f"/v1/jobs/{job}/events") as messages, stream(listening.url, "/v1/events"):
        await anext(messages)
        await asyncio.to_thread(listening.stop)
        assert [m.event async for m in messages] == []  # no "end": the client reconnects and resumes
