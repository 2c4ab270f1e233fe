"""Ids that sort by the order of their creation."""

import re
import secrets
import threading
import time

from sqlalchemy import ColumnElement, or_
from sqlalchemy.orm import InstrumentedAttribute

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: nothing that reads like something else
_FORM = re.compile(rf"[a-z]+_([0-7][{_ALPHABET}]{{25}})")
_RANDOM_BITS = 80
_STEP_BITS = 72
"""Random bits of the distance between ids that the clock does not order."""
_LIMIT = (1 << 128) - (1 << 100)
_lock = threading.Lock()
_last = 0


def new_id(prefix: str, after: str | None = None) -> str:
    """Return `prefix_` and 26 characters: 48 bits of milliseconds since 1970, and 80 random bits.

    The id follows all that this process has created, also while the clock stands still or is set back.

    Args:
        prefix: What it identifies.
        after: The last id of another process, which it follows, too.
    """
    global _last
    number = time.time_ns() // 1_000_000 << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
    with _lock:
        earlier = max(_last, _number(after))
        if number <= earlier:
            number = earlier + 1 + secrets.randbits(_STEP_BITS - 1)
        _last = number
    return prefix + "_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def has_part(column: InstrumentedAttribute[str], prefix: str, part: str) -> ColumnElement[bool]:
    """Return the condition that an id begins or ends with `part`, which may lack `prefix_`."""
    part = part.removeprefix(f"{prefix}_")
    return or_(column.startswith(f"{prefix}_{part}", autoescape=True), column.endswith(part, autoescape=True))


def _number(id_: str | None) -> int:
    """The number that an id encodes, 0 for one that none can follow: imported ids have any form."""
    found = _FORM.fullmatch(id_ or "")
    number = 0
    for character in found[1] if found else "":
        number = number << 5 | _ALPHABET.index(character)
    return number if number < _LIMIT else 0
