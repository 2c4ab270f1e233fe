"""The mean, its t interval and its t test, of which cells, comparisons and contrasts consist."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_ROUNDING = 8 * sys.float_info.epsilon


@dataclass(frozen=True)
class Estimate:
    """The mean of n values.

    With n = 0 all other fields are None; with n = 1 all but the mean. If all values are equal, `sd` is 0 and there is
    no interval, because a t interval would claim certainty. `p` is then 1 if they are all 0, else None: t would be
    infinite, and equal values are more likely one training run that was counted several times.
    """

    n: int
    mean: float | None
    sd: float | None
    interval: tuple[float, float] | None
    p: float | None
    """The two-sided p of the hypothesis that the true mean is 0."""


def estimate(values: Sequence[float], *, confidence: float, scale: float | None = None) -> Estimate:
    """Return the mean of `values` with its two-sided interval at `confidence` (Student 1908).

    Values are assumed to be independent draws of one normal distribution. For differences, `scale` is the magnitude of
    the numbers that they were computed from: differences below the rounding error of these count as equal.
    """
    n = len(values)
    if n == 0:
        return Estimate(0, None, None, None, None)
    tolerance = _ROUNDING * (max(map(abs, values)) if scale is None else scale)
    lowest, highest = min(values), max(values)
    mean = min(max(math.fsum(values) / n, lowest), highest)  # rounding may put the mean outside of equal values
    if n == 1:
        return Estimate(1, mean, None, None, None)
    if highest - lowest <= tolerance:
        return Estimate(n, mean, 0.0, None, 1.0 if abs(mean) <= tolerance else None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    error = sd / math.sqrt(n)
    reach = t_quantile(n - 1, 1 - confidence) * error
    return Estimate(n, mean, sd, (mean - reach, mean + reach), t_probability(n - 1, mean / error))


def wilson_interval(count: int, total: int, *, confidence: float) -> tuple[float, float]:
    """Return the score interval of the probability of an event that occurred `count` of `total` times (Wilson 1927)."""
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    share, weight = count / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    reach = z * math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    return (centre - reach if count else 0.0), (centre + reach if count < total else 1.0)


@lru_cache(maxsize=4096)
def t_quantile(df: int, alpha: float) -> float:
    """Return the value that |t| with `df` degrees of freedom exceeds with probability `alpha`."""
    from scipy.special import stdtrit

    return -float(stdtrit(df, alpha / 2))


def t_probability(df: int, t: float) -> float:
    """Return the probability that |t| with `df` degrees of freedom is at least `t`."""
    from scipy.special import stdtr

    return float(2 * stdtr(df, -abs(t)))


def checked_confidence(confidence: float) -> float:
    """Return `confidence`. Raises `ValueError` unless it is between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: give a number between 0 and 1, as 0.95")
    return confidence
