"""The seeds of a sequential experiment, and the interim analyses at which more of them are added."""

import math
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class SeedPlan:
    """The seeds that a sequential experiment may use, and its interim analyses.

    It must be fixed before the first value is seen: a plan that is changed later does not control the error rate.

    Raises:
        ValueError: A seed repeats, or the analyses are not increasing numbers from 2 up to all seeds.
    """

    seeds: tuple[int, ...]
    """In the order in which they are used."""
    analyses: tuple[int, ...]
    """The number of seeds per cell at each interim analysis; the last one is of all seeds."""

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}: give each seed once")
        increasing = all(a < b for a, b in pairwise(self.analyses))
        if not self.analyses or self.analyses[0] < 2 or not increasing or self.analyses[-1] != len(self.seeds):
            raise ValueError(
                f"analyses are {self.analyses} with {len(self.seeds)} seeds: give increasing numbers from 2 on, the "
                f"last one {len(self.seeds)}"
            )

    def reached(self, ended: Set[int]) -> Iterator[tuple[int, ...]]:
        """Yield the seeds of each interim analysis, in order, as long as all of them are in `ended`."""
        for size in self.analyses:
            if not ended >= set(self.seeds[:size]):
                return
            yield self.seeds[:size]


GROWTH = 1.5
"""Growth of the number of seeds between analyses. Fewer analyses cost less power, more of them stop earlier."""


def plan_analyses(minimum: int, maximum: int) -> tuple[int, ...]:
    """Return the numbers of seeds of the interim analyses: `minimum`, each next one half as large again, and `maximum`.

    `plan_analyses(3, 10)` is (3, 5, 10).

    Raises:
        ValueError: `minimum` is below 2 (one seed has no spread), or `maximum` is below `minimum`.
    """
    if minimum < 2:
        raise ValueError(f"min is {minimum}: give at least 2 seeds, because one has no spread")
    if maximum < minimum:
        raise ValueError(f"max is {maximum}, below min, {minimum}: give at least {minimum}")
    sizes = [minimum]
    while (size := math.ceil(sizes[-1] * GROWTH)) * GROWTH <= maximum:
        sizes.append(size)
    return tuple(sizes) if maximum == minimum else (*sizes, maximum)
