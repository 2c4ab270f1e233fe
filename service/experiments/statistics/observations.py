"""What was observed: one number a job, and the table they make."""

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple


class CellKey(NamedTuple):
    """A place in the table."""

    row: str
    column: str


@dataclass(frozen=True)
class Observation:
    """What one ended job contributes to the table.

    `value` is None where the job ended without one: it failed, or its loss was no longer finite. A job that has not
    ended is no observation. Raises `ValueError` where the value is not finite.
    """

    row: str
    column: str
    seed: int
    value: float | None
    job: str

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value of job {self.job} is {self.value}: give a finite number, or None for none")

    @property
    def cell(self) -> CellKey:
        """The place in the table."""
        return CellKey(self.row, self.column)


class Table:
    """Observations by cell and seed.

    A seed counts once in a cell. Of several jobs with one seed the earliest that has a value counts (job ids sort by
    the time they were made): the retry of a failed job counts, and repeating a job that has a value changes nothing,
    however the repetition turns out.

    `cells` are the cells of the design, in the order in which rows and columns are to appear. Without it they are
    those that were observed, rows and columns sorted, numbers by size. Raises `ValueError` for an observation outside.
    """

    def __init__(self, observations: Iterable[Observation], cells: Sequence[tuple[str, str]] | None = None) -> None:
        by_age = sorted(observations, key=lambda observation: observation.job)
        self._observations = by_age
        if cells is None:
            cells = list({observation.cell for observation in by_age})
            self.rows = tuple(sorted({row for row, _ in cells}, key=_by_size))
            self.columns = tuple(sorted({column for _, column in cells}, key=_by_size))
        else:
            self.rows = tuple(dict.fromkeys(row for row, _ in cells))
            self.columns = tuple(dict.fromkeys(column for _, column in cells))
        present = set(cells)
        self.cells = tuple(
            CellKey(row, column) for row in self.rows for column in self.columns if (row, column) in present
        )
        self._counted: dict[CellKey, dict[int, Observation]] = {cell: {} for cell in self.cells}
        self._repeated = dict.fromkeys(self.cells, 0)
        for observation in by_age:
            cell = observation.cell
            if cell not in self._counted:
                raise ValueError(f"job {observation.job} is in {cell.row}, {cell.column}, which is not among the cells")
            before = self._counted[cell].get(observation.seed)
            if before is None or before.value is None is not observation.value:
                self._counted[cell][observation.seed] = observation
            if before is not None:
                self._repeated[cell] += 1

    def counted(self, cell: tuple[str, str]) -> tuple[Observation, ...]:
        """The observations of a cell that count, one a seed, by seed."""
        by_seed = self._counted[CellKey(*cell)]
        return tuple(by_seed[seed] for seed in sorted(by_seed))

    def repeated(self, cell: tuple[str, str]) -> int:
        """How many observations of a cell do not count, because another one has their seed."""
        return self._repeated[CellKey(*cell)]

    def ended(self, cell: tuple[str, str]) -> frozenset[int]:
        """The seeds of a cell that were tried, whether or not they gave a value."""
        return frozenset(self._counted[CellKey(*cell)])

    def values(self, cell: tuple[str, str]) -> dict[int, float]:
        """The values of a cell by seed."""
        return {
            seed: observation.value
            for seed, observation in sorted(self._counted[CellKey(*cell)].items())
            if observation.value is not None
        }

    def within(self, seeds: Set[int]) -> "Table":
        """The same table, as if no other seed than these had been tried."""
        inside = [observation for observation in self._observations if observation.seed in seeds]
        return Table(inside, self.cells)

    def pairs(self) -> Iterator[tuple[CellKey, CellKey]]:
        """Every two cells of a column, the upper one first."""
        for column in self.columns:
            in_column = [cell for cell in self.cells if cell.column == column]
            yield from combinations(in_column, 2)


def _by_size(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
