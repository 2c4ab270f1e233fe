"""Requests that cannot be sent are refused with the value, before they are sent."""

import datetime
import math
from collections import OrderedDict
from typing import Any

import pytest

from service.client.requests import InvalidRequest, given, header, json_body, path_of

ITSELF: dict[str, Any] = {}
ITSELF["a"] = [ITSELF]
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"a": [1, math.nan]}, "/a/1: the value is nan: give a finite number"),
        ({"a": {"b": -math.inf}}, "/a/b: the value is -inf"),
        (ITSELF, "/a/0: the value contains itself"),
        (
            {"a": datetime.date(2026, 1, 2)},
            r"/a: the value is datetime.date\(2026, 1, 2\), of type date: give an",
        ),
        ({"a": b"x"}, "/a: the value is b'x', of type bytes"),
        ({"a": {1, 2}}, "of type set"),
        ({(1, 2): "a"}, r"the key is \(1, 2\): give a text"),
        ({"a": "\ud800"}, r"/a: the value is '\\ud800', which is not valid Unicode"),
        ({"\ud800": "a"}, r"the key is '\\ud800'"),
        ({"a": DEEP}, "nested too deeply"),
        ({"a": 10**5000}, "the request cannot be written as JSON"),
    ],
)
def test_a_body_that_is_no_json_names_the_value(document: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        json_body(document)


def test_references_that_multiply_are_counted_and_not_written_out() -> None:
    document: list[Any] = []
    for _ in range(60):
        document = [document, document]
    with pytest.raises(InvalidRequest, match="more than 1,048,576 values"):
        json_body(document)


def test_a_body_is_compact_json_in_utf_8() -> None:
    shared = [1, 2.5]
    document = OrderedDict(a=shared, b=shared, c=(True, None), d="é☃")
    assert json_body(document) == '{"a":[1,2.5],"b":[1,2.5],"c":[true,null],"d":"é☃"}'.encode()


def test_a_path_quotes_its_parts() -> None:
    assert path_of("jobs", "a/b?", "cancel") == "/v1/jobs/a%2Fb%3F/cancel"
    assert path_of("jobs", "\udcff") == "/v1/jobs/%3F"


@pytest.mark.parametrize("parts", [("",), (".",), ("..",), ("job_1", "")])
def test_a_path_that_leads_elsewhere_is_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest):
        path_of("jobs", *parts)


def test_a_query_leaves_out_what_is_not_given() -> None:
    assert given({"a": None, "b": 0, "c": ["x"]}) == {"b": 0, "c": ["x"]}
    with pytest.raises(InvalidRequest, match="c is"):
        given({"c": ["x", "\udcff"]})


@pytest.mark.parametrize("value", ["é", "a\nb", "a\r", "\x00"])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(value: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        header("Authorization", value, " (the token)")
    assert str(error.value) == "Authorization (the token) has characters other than printable ASCII"
