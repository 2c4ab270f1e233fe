"""Observations, one number per job, and their table."""

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple


class CellKey(NamedTuple):
    """The key of a cell: its row and its column."""

    row: str
    column: str


@dataclass(frozen=True)
class Observation:
    """The contribution of one ended job to the table.

    `value` is None if the job ended without one, because it was cancelled or failed. A failed job has one if failures
    count as some value. A job that has not ended is no observation. Raises `ValueError` if the value is not finite.
    """

    row: str
    column: str
    seed: int
    value: float | None
    job: str
    failed: bool = False

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value of job {self.job} is {self.value}: give a finite number, or None for none")

    @property
    def cell(self) -> CellKey:
        """The key of the cell."""
        return CellKey(self.row, self.column)


class Table:
    """Observations by cell and seed.

    A seed counts once in a cell. Of several jobs with the same seed, the earliest one with a value counts (job ids sort
    by their creation time): the retry of a failed job counts, and the repetition of a job with a value never does.

    `cells` are the cells of the design, in the order of its rows and columns; by default those of the observations,
    with rows and columns sorted, numbers by size. Raises `ValueError` for an observation in none of them.
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
        """Return the observations of a cell that count, by seed: one per seed."""
        by_seed = self._counted[CellKey(*cell)]
        return tuple(by_seed[seed] for seed in sorted(by_seed))

    def repeated(self, cell: tuple[str, str]) -> int:
        """Return how many observations of a cell do not count because another one has their seed."""
        return self._repeated[CellKey(*cell)]

    def ended(self, cell: tuple[str, str]) -> frozenset[int]:
        """Return the seeds of a cell that ended, with a value or without."""
        return frozenset(self._counted[CellKey(*cell)])

    def values(self, cell: tuple[str, str]) -> dict[int, float]:
        """Return the values of a cell by seed."""
        return {
            seed: observation.value
            for seed, observation in sorted(self._counted[CellKey(*cell)].items())
            if observation.value is not None
        }

    def failed(self, cell: tuple[str, str]) -> frozenset[int]:
        """Return the seeds of a cell whose jobs failed."""
        return frozenset(seed for seed, observation in self._counted[CellKey(*cell)].items() if observation.failed)

    def within(self, seeds: Set[int]) -> "Table":
        """Return the table of the observations of these seeds alone."""
        inside = [observation for observation in self._observations if observation.seed in seeds]
        return Table(inside, self.cells)

    def pairs(self) -> Iterator[tuple[CellKey, CellKey]]:
        """Yield all pairs of cells of a column, the upper one first."""
        for column in self.columns:
            in_column = [cell for cell in self.cells if cell.column == column]
            yield from combinations(in_column, 2)


def _by_size(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
