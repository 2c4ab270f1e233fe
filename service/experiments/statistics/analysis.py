"""The whole table at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.experiments.statistics.cells import Cell, summarize
from service.experiments.statistics.comparisons import Comparison, compare
from service.experiments.statistics.interaction import Interaction, interact
from service.experiments.statistics.intervals import checked_confidence
from service.experiments.statistics.observations import Observation, Table
from service.experiments.statistics.plan import SeedPlan


@dataclass(frozen=True)
class Analysis:
    """What a table says."""

    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    interaction: Interaction | None
    confidence: float
    family_size: int
    """How many comparisons p_adjusted answers for."""
    looks: tuple[int, ...]
    """The planned looks of a sequential experiment; empty where the seeds were fixed beforehand."""


def analyse(
    observations: Iterable[Observation],
    *,
    cells: Sequence[tuple[str, str]] | None = None,
    confidence: float = 0.95,
    plan: SeedPlan | None = None,
) -> Analysis:
    """Cells, comparisons and interaction of the observations.

    `cells` are the (row, column) keys of the design, in the order they are to be shown; give them wherever they are
    known, for they decide the sign of the comparisons, the first and last column, and which empty cells are there.
    `plan` is the plan of a sequential experiment; None says that the seeds were fixed beforehand. With a plan every
    interval is at 1 - (1 - confidence) / looks, so that it holds at whichever look one stops.

    Raises `ValueError` for a confidence outside 0 to 1, and for an observation that is in none of `cells`.
    """
    checked_confidence(confidence)
    table = Table(observations, cells)
    num_looks = len(plan.looks) if plan else 1
    comparisons, family_size = compare(table, confidence=confidence, plan=plan)
    return Analysis(
        cells=tuple(summarize(table, key, confidence=1 - (1 - confidence) / num_looks) for key in table.cells),
        comparisons=comparisons,
        interaction=interact(table, confidence=confidence, plan=plan),
        confidence=confidence,
        family_size=family_size,
        looks=plan.looks if plan else (),
    )
