"""What a table of results shows, in sentences."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from service.experiments.numbers import Number, p_is, percent, words
from service.experiments.statistics import Analysis, Comparison
from service.experiments.titles import other_datasets
from service.jobs import TERMINAL
from worker.metrics import METRICS

if TYPE_CHECKING:  # the command line imports this module, and has to start fast
    from service.experiments.results import ResultTable

NOTHING_COMPARED = "There are no comparisons yet: a comparison needs two rows with at least two common seeds"
WITHOUT_SPREAD = "No comparison can be tested: the differences do not vary between seeds"


def headline(table: "ResultTable", analysis: Analysis, datasets: Iterable[str]) -> str:
    """Return the result of a table in one sentence.

    It is the largest significant difference, with its interval, p and n; else that none is significant. In brackets
    follow the datasets other than CIFAR-10, whether the values are optimistic, and how many jobs have ended.
    """
    question = table.question
    assert question.metric is not None
    compared = [comparison for comparison in analysis.comparisons if comparison.p is not None]
    resolved = [comparison for comparison in compared if comparison.resolved]
    if all(cell.mean is None for cell in analysis.cells):
        sentence = "No job has a value yet"
    elif not compared:
        repeated = any(comparison.n > 1 for comparison in analysis.comparisons)
        sentence = WITHOUT_SPREAD if repeated else NOTHING_COMPARED
    elif not resolved:
        sentence = unresolved(compared, len(compared))
    else:
        largest = max(resolved, key=lambda comparison: abs(comparison.difference or 0))
        sentence = difference(largest, question.metric, question.columns, analysis.confidence)
        if len(compared) > 1:
            rank = "the only" if len(resolved) == 1 else f"the largest of {len(resolved)}"
            noun = "difference" if len(resolved) == 1 else "differences"
            sentence += f", {rank} significant {noun} in {len(compared)} comparisons"
    reservations = other_datasets(datasets)
    if question.statistic == "best" and (note := METRICS[question.metric].best_note):
        reservations.append(note)
    if (ended := sum(run.status in TERMINAL for run in table.runs)) < len(table.runs):
        reservations.append(f"{ended} of {len(table.runs)} jobs have ended")
    return f"{sentence} [{'; '.join(reservations)}]." if reservations else f"{sentence}."


def difference(comparison: Comparison, metric: str, columns: str, confidence: float) -> str:
    """Return a clause about a comparison with a difference and a p value, without the full stop.

    Args:
        comparison: The comparison.
        metric: Name of the metric.
        columns: Field of the columns.
        confidence: Of the interval.
    """
    number = Number(metric)
    assert comparison.difference is not None
    assert comparison.p_adjusted is not None
    less, more = comparison.row_a, comparison.row_b
    if comparison.difference > 0:
        less, more = more, less
    interval = ""
    if comparison.interval:
        bounds = sorted(map(abs, comparison.interval))
        interval = f"{percent(confidence)} interval {number.range(bounds)}, "
    return (
        f"At {words(columns)} {comparison.column}, {more} has {number.points(abs(comparison.difference))} more "
        f"{METRICS[metric].title} than {less} ({interval}adjusted p {p_is(comparison.p_adjusted)}, n = {comparison.n})"
    )


def unresolved(comparisons: Sequence[Comparison], total: int) -> str:
    """Return a clause about the comparisons, of `total`, that are not significant, without the full stop."""
    needed = [comparison.seeds_needed for comparison in comparisons if comparison.seeds_needed]
    if len(comparisons) < total:
        text = f"{len(comparisons)} of {total} comparisons {'is' if len(comparisons) == 1 else 'are'} not significant"
    else:
        text = f"None of {total} comparisons is significant" if total > 1 else "The only comparison is not significant"
    if not needed:
        return text
    more = f"{min(needed)}" if min(needed) == max(needed) else f"{min(needed)} to {max(needed)}"
    seeds = "seed" if more == "1" else "seeds"
    which = "it" if len(comparisons) == 1 else f"{len(needed)} of them"
    return f"{text}; at the observed spread, {more} more {seeds} would resolve {which}"
