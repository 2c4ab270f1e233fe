"""The Range header, RFC 9110 section 14.2."""

import re

from service.errors import RangeNotSatisfiable

MOST = 100
"""Beyond this number of ranges in one request, the whole file is sent."""

_SPEC = re.compile(r"\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)


def byte_ranges(header: str, size: int) -> list[tuple[int, int]]:
    """Parse a Range header for a file of `size` bytes.

    Returns:
        The ranges that the file has, as (first, last) byte; none if the header is to be ignored.

    Raises:
        RangeNotSatisfiable: The header is well formed, and the file has none of its ranges.
    """
    unit, equals, specs = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return []
    found: list[tuple[int, int]] = []
    parts = specs.split(",")
    if len(parts) > MOST:
        return []
    for part in parts:
        match = _SPEC.fullmatch(part)
        if match is None or not any(match.groups()):
            return []
        first, last = match.groups()
        if first and last and int(last) < int(first):
            return []
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last), size - 1) if first and last else size - 1
        if start < size and (first or int(last) > 0):
            found.append((start, end))
    if not found:
        raise RangeNotSatisfiable(f"The file has {size} bytes, and none of them are in the range {header[:80]}.")
    return found
