"""Functions that build tables of observations, and textbook data that several tests use."""

from collections.abc import Mapping, Sequence

from service.experiments.statistics import Analysis, Comparison, Observation

# Student 1908, The probable error of a mean, Biometrika 6, p. 20: hours of sleep that two drugs gained ten patients.
SLEEP_A = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SLEEP_B = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def observe(row: str, column: str, values: Mapping[int, float | None] | Sequence[float | None]) -> list[Observation]:
    """Return one observation per seed of a cell; in a sequence, the positions are the seeds."""
    by_seed = values if isinstance(values, Mapping) else dict(enumerate(values))
    return [Observation(row, column, seed, value, f"{row}/{column}/{seed}") for seed, value in by_seed.items()]


def observe_rows(rows: Mapping[str, Sequence[float | None]], column: str = "2") -> list[Observation]:
    """Return a table of one column, with one row per name."""
    return [observation for row, values in rows.items() for observation in observe(row, column, values)]


def comparison(analysis: Analysis, row_a: str, row_b: str, column: str = "2") -> Comparison:
    """Return the comparison of these two rows."""
    (found,) = [c for c in analysis.comparisons if (c.row_a, c.row_b, c.column) == (row_a, row_b, column)]
    return found
