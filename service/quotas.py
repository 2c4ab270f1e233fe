"""Limits on the jobs of a name, as the setting QUOTAS has them: `name:running:queued`."""

import re
from typing import NamedTuple

OTHERS = "*"
"""The name that stands for every name without an entry."""
_NUMBER = re.compile(r"[1-9][0-9]{0,8}|")


class Quota(NamedTuple):
    """How many jobs of a name may run, and how many may be queued or paused. None: any number."""

    running: int | None = None
    queued: int | None = None


def read_quotas(text: str) -> dict[str, Quota]:
    """Read comma-separated entries. Raises `ValueError`."""
    quotas: dict[str, Quota] = {}
    for position, entry in enumerate(map(str.strip, text.split(",")), start=1):
        if not entry:
            continue
        name, *numbers = entry.split(":")
        if not name or len(numbers) != 2 or not all(map(_NUMBER.fullmatch, numbers)):
            raise ValueError(
                f"NORMLAB_QUOTAS: entry {position} is {entry!r}: give name:running:queued, such as ada:4:100, with "
                "numbers from 1, or nothing for no limit"
            )
        if name in quotas:
            raise ValueError(f"NORMLAB_QUOTAS: the name {name} has two entries")
        quotas[name] = Quota(*(int(number) if number else None for number in numbers))
    return quotas
