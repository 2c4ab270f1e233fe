"""Parsing of the Range header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.http.byte_ranges import MOST, byte_ranges
from service.errors import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [(0, 0)]),
        ("bytes=0-", [(0, 9)]),
        ("bytes=3-5", [(3, 5)]),
        ("bytes=3-99", [(3, 9)]),
        ("bytes=-3", [(7, 9)]),
        ("bytes=-99", [(0, 9)]),
        ("Bytes = 1-2 , 4-5", [(1, 2), (4, 5)]),
        ("bytes=99-,0-1", [(0, 1)]),
        ("bytes=-0,0-1", [(0, 1)]),
        ("seconds=0-1", []),
        ("bytes 0-1", []),
        ("bytes=", []),
        ("bytes=-", []),
        ("bytes=1", []),
        ("bytes=2-1", []),
        ("bytes=a-b", []),
        ("bytes=0-1,x", []),
        ("bytes=+0-1", []),
        ("bytes=٣-", []),
        (f"bytes=0-{'9' * 18}", [(0, 9)]),
        (f"bytes=0-{'9' * 5000}", []),
        ("bytes=" + ",".join(["0-0"] * MOST), [(0, 0)] * MOST),
        ("bytes=" + ",".join(["0-0"] * (MOST + 1)), []),
    ],
)
def test_of_a_file_of_ten_bytes(header: str, expected: list[tuple[int, int]]) -> None:
    assert byte_ranges(header, 10) == expected


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=10-20,11-", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)]
)
def test_what_the_file_does_not_have_is_refused(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable, match=f"{size} bytes"):
        byte_ranges(header, size)


@given(st.text(alphabet="bytes=0123456789-, x", max_size=30) | st.from_regex(r"bytes=(\d*-\d*,?)+"), st.integers(0, 50))
def test_every_range_lies_in_the_file(header: str, size: int) -> None:
    try:
        found = byte_ranges(header, size)
    except RangeNotSatisfiable:
        return
    assert all(0 <= first <= last < size for first, last in found)
