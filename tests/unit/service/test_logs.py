"""The service's log: JSON lines with ids, by which they can be joined."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from service import logs

log = logging.getLogger("service.test")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    stream = io.StringIO()
    logs.configure("INFO", stream)
    yield stream
    root.handlers, root.level = handlers, level
    logging.getLogger("service").setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_when_who_and_what(written: io.StringIO) -> None:
    log.info("started %s of %d", "worker", 3, extra={"slots": 2})
    [line] = lines(written)
    assert datetime.fromisoformat(line.pop("time")).utcoffset() is not None
    assert line == {"level": "info", "logger": "service.test", "message": "started worker of 3", "slots": 2}


def test_other_packages_do_not_write_credentials_at_the_level_of_the_service(written: io.StringIO) -> None:
    logs.configure("DEBUG", written)
    logging.getLogger("botocore.endpoint").debug("X-Amz-Security-Token: sesame")
    log.debug("polled")
    assert [line["message"] for line in lines(written)] == ["polled"]
    logs.configure("ERROR", written)
    logging.getLogger("botocore.endpoint").warning("retried")
    assert len(lines(written)) == 1


def test_lines_carry_the_ids_of_what_they_are_about(written: io.StringIO) -> None:
    with logs.about(request="r1"):
        log.info("outer")
        with logs.about(job="j1", attempt="a1"):
            log.info("inner")
        log.info("outer again")
    log.info("after")
    ids = [{key: line.get(key) for key in ("request", "job", "attempt") if key in line} for line in lines(written)]
    assert ids == [{"request": "r1"}, {"request": "r1", "job": "j1", "attempt": "a1"}, {"request": "r1"}, {}]


def test_tasks_do_not_mix_their_ids(written: io.StringIO) -> None:
    async def work(request: str, barrier: asyncio.Barrier) -> None:
        with logs.about(request=request):
            await barrier.wait()
            log.info(request)
            await barrier.wait()

    async def together() -> None:
        barrier = asyncio.Barrier(3)
        await asyncio.gather(*(work(f"r{n}", barrier) for n in range(3)))

    asyncio.run(together())
    assert len(lines(written)) == 3
    assert all(line["request"] == line["message"] for line in lines(written))


def test_an_exception_is_logged_with_its_traceback_on_one_line(written: io.StringIO) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("failed")
    [line] = lines(written)
    assert line["message"] == "failed"
    assert "test_logs.py" in line["exception"]
    assert line["exception"].endswith("ValueError: two\nlines\n")


def test_what_is_below_the_level_or_no_json_stops_nobody(written: io.StringIO) -> None:
    log.debug("too small")
    log.info("odd", extra={"where": object, "text": "\ud800"})
    [line] = lines(written)
    assert line["where"] == "<class 'object'>"
