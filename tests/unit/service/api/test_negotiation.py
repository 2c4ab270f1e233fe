"""Content negotiation by the Accept header."""

import pytest

from service.api.http.negotiation import preferred

OFFERED = ["application/json", "text/event-stream"]


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/*", "application/json"),
        ("text/html", "application/json"),
        ("text/event-stream", "text/event-stream"),
        ("TEXT/Event-Stream", "text/event-stream"),
        ("text/event-stream; charset=utf-8", "text/event-stream"),
        ("text/event-stream, */*;q=0.5", "text/event-stream"),
        ("application/json;q=0.9, text/event-stream", "text/event-stream"),
        ("application/json, text/event-stream;q=0.9", "application/json"),
        ("application/json, text/event-stream", "application/json"),
        ("text/event-stream;q=0", "application/json"),
        ("text/event-stream;q=much", "application/json"),
        ("text/event-stream;q=nan", "application/json"),
        (",;=,", "application/json"),
    ],
)
def test_the_best_that_was_named_is_chosen_else_the_first(accept: str | None, chosen: str) -> None:
    assert preferred(accept, OFFERED) == chosen
