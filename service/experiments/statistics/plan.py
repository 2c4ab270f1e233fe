"""The seeds a sequential experiment may spend, and when it looks at them."""

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class SeedPlan:
    """Which seeds a sequential experiment may spend, in which order, and after how many it looks.

    `seeds` are in the order in which they are spent; `looks` are the numbers of seeds at which decisions are made, the
    last one all of `seeds`. To be fixed before the first value is seen: a plan that is changed later keeps no error
    rate. Raises `ValueError` for seeds that repeat and for looks that are not 2 or more, increasing, up to all seeds.
    """

    seeds: tuple[int, ...]
    looks: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}: give each seed once")
        increasing = all(a < b for a, b in pairwise(self.looks))
        if not self.looks or self.looks[0] < 2 or not increasing or self.looks[-1] != len(self.seeds):
            raise ValueError(
                f"looks are {self.looks} at {len(self.seeds)} seeds: give increasing numbers from 2 on, the last one "
                f"{len(self.seeds)}"
            )

    def reached(self, ended: Set[int]) -> Iterator[tuple[int, ...]]:
        """The seeds of each look, in order, of which all are in `ended`."""
        for look in self.looks:
            if not ended >= set(self.seeds[:look]):
                return
            yield self.seeds[:look]


GROWTH = 1.5
"""How much larger each look is than the one before. Fewer looks cost less of the error rate, more find out earlier."""


def plan_looks(minimum: int, maximum: int) -> tuple[int, ...]:
    """The numbers of seeds to look at: `minimum`, each next one half as large again, and `maximum`.

    `plan_looks(3, 10)` is (3, 5, 10). Raises `ValueError` for a minimum below 2 (one seed has no spread) and for a
    maximum below the minimum.
    """
    if minimum < 2:
        raise ValueError(f"min is {minimum}: give at least 2 seeds, for one has no spread")
    if maximum < minimum:
        raise ValueError(f"max is {maximum}, below min, {minimum}: give at least {minimum}")
    looks = [minimum]
    while (look := math.ceil(looks[-1] * GROWTH)) * GROWTH <= maximum:
        looks.append(look)
    return tuple(looks) if maximum == minimum else (*looks, maximum)
