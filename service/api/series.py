"""Downsampling and smoothing of series of metric values. Pure functions, which every endpoint of metrics shares.

A value that is not finite is None. A series is smoothed before it is downsampled: the average is of all values.
"""

from collections.abc import Sequence

POINTS_TOGETHER = 16_000
FEWEST_POINTS, MOST_POINTS = 40, 2000


def points_each(num_curves: int) -> int:
    """Return how many points each of several curves may have, such that all of them can be drawn quickly."""
    return max(FEWEST_POINTS, min(MOST_POINTS, POINTS_TOGETHER // num_curves))


def downsample(columns: Sequence[Sequence[float | None]], max_points: int) -> list[int]:
    """Select at most `max_points` rows of a table such that a curve of any of its columns keeps its peaks.

    The rows between the first and the last are divided into segments of equal length. Of each segment, the rows with
    the minimum or the maximum of a column are kept.

    Args:
        columns: The values of one or more metrics, all of the same length.
        max_points: At least 2.

    Returns:
        The indices of the selected rows in increasing order; the first and the last row are among them.
    """
    length = len(columns[0]) if columns else 0
    if length <= max_points:
        return list(range(length))
    kept = {0, length - 1}
    segments = (max_points - 2) // (2 * len(columns))
    for number in range(segments):
        first, end = (1 + (length - 2) * bound // segments for bound in (number, number + 1))
        for values in columns:
            finite = [index for index in range(first, end) if values[index] is not None]
            if finite:
                kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}  # type: ignore[arg-type]
    return sorted(kept)


def equidistant(length: int, max_points: int) -> list[int]:
    """Select at most `max_points` (at least 2) of `length` rows at equal distances, the first and the last included."""
    if length <= max_points:
        return list(range(length))
    return [number * (length - 1) // (max_points - 1) for number in range(max_points)]


def moving_average(values: Sequence[float | None], weight: float) -> list[float | None]:
    """Return the exponential moving average of a series, debiased as Adam's moments are (Kingma & Ba 2015, section 3).

    Args:
        values: The series; None leaves the average unchanged, and stays None.
        weight: The weight of the past, from 0 (no smoothing) to below 1.
    """
    total = mass = 0.0
    averages: list[float | None] = []
    for value in values:
        if value is None:
            averages.append(None)
            continue
        total, mass = weight * total + (1 - weight) * value, weight * mass + (1 - weight)
        averages.append(total / mass)
    return averages
