"""`normlab webhook deliveries` is the log of the webhook."""

from service.cli.exits import Exit
from tests.unit.service.conftest import Run
from tests.unit.service.stand_in import Answer, Json, StandIn

FAILED: Json = {
    "id": "delivery_2",
    "event": "experiment.ended",
    "subject": "experiment_1",
    "status": "failed",
    "tries": 9,
    "answer": 503,
    "error": "the answer was 503",
    "created_at": "2026-01-01T00:00:00Z",
}
WAITING: Json = FAILED | {"id": "delivery_1", "status": "waiting", "tries": 0, "answer": None, "error": None}


def test_deliveries_are_listed_with_the_last_answer(run: Run, service: StandIn) -> None:
    pages = [{"data": [FAILED], "next_cursor": "c"}, {"data": [WAITING], "next_cursor": None}]
    service.on("GET", "/v1/webhook/deliveries", *map(Answer, pages))
    lines = [line.split() for line in run("--url", service.url, "webhook", "deliveries").out.splitlines()]
    assert lines[0] == ["ID", "EVENT", "OF", "STATUS", "TRIES", "ANSWER", "AGE", "ERROR"]
    assert lines[1][:6] == ["delivery_2", "experiment.ended", "experiment_1", "failed", "9", "503"]
    assert lines[1][-4:] == ["the", "answer", "was", "503"]
    assert lines[2][:6] == ["delivery_1", "experiment.ended", "experiment_1", "waiting", "0", "–"]


def test_they_are_filtered_and_printed_as_json(run: Run, service: StandIn) -> None:
    service.on("GET", "/v1/webhook/deliveries", Answer({"data": [FAILED, WAITING], "next_cursor": None}))
    arguments = ["webhook", "deliveries", "--status", "failed", "--status", "pending", "--limit", "1", "--json"]
    assert run("--url", service.url, *arguments).json == [FAILED]
    assert service.requests[0].query == {"status": ["failed", "pending"], "limit": ["1"]}


def test_without_any_it_says_so_and_a_wrong_status_names_the_flag(lab: Run) -> None:
    assert lab("webhook", "deliveries").out == "No deliveries.\n"
    ended = lab("webhook", "deliveries", "--status", "lost")
    assert (ended.code, ended.err.startswith("normlab: --status is 'lost'")) == (Exit.INVALID, True)
