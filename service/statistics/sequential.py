"""Seeds where they are needed: looks planned beforehand, and the cells that are sampled up to the next one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.statistics.observations import CellKey, Observation


@dataclass(frozen=True)
class SeedPlan:
    """Which seeds a sequential experiment may spend, in which order, and after how many it looks.

    `seeds` in the order they are spent; `looks` the numbers of seeds at which decisions are made, increasing, the last
    one all of `seeds`. Fixed before the first value is seen: a plan changed later keeps no error rate.
    """

    seeds: tuple[int, ...]
    looks: tuple[int, ...]


@dataclass(frozen=True)
class Wanted:
    """A cell that is undecided, and its seeds up to the next look that no ended job has tried."""

    cell: CellKey
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Look:
    """The next look: it happens once every wanted seed has ended, with a value or without."""

    number: int
    """From 1."""
    seeds: int
    """How many seeds each undecided cell has at it."""
    wanted: tuple[Wanted, ...]


def plan_looks(minimum: int, maximum: int) -> tuple[int, ...]:
    """Sample sizes to look at: `minimum`, each next one half as large again, and `maximum`."""
    raise NotImplementedError


def undecided_cells(
    observations: Iterable[Observation],
    plan: SeedPlan,
    *,
    cells: Sequence[tuple[str, str]],
    confidence: float = 0.95,
) -> Look | None:
    """The next look and the cells that need seeds for it; None where all is decided or all planned seeds are spent.

    Seeds that are queued or running have no observation yet, so they are wanted still: submit those only that have no
    job. Asking again with the same observations answers the same.
    """
    raise NotImplementedError
