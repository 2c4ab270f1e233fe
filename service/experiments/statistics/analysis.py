"""The analysis of a whole table: cells, comparisons and interaction."""

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
    """The statistics of a table."""

    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    interaction: Interaction | None
    confidence: float
    family_size: int
    """The number of comparisons that p_adjusted is adjusted for."""
    interim_analyses: tuple[int, ...]
    """Those of a sequential experiment; empty if the seeds were fixed beforehand."""


def analyse(
    observations: Iterable[Observation],
    *,
    cells: Sequence[tuple[str, str]] | None = None,
    confidence: float = 0.95,
    plan: SeedPlan | None = None,
) -> Analysis:
    """Analyse a table of observations.

    Args:
        observations: At most one per cell and seed counts.
        cells: The (row, column) keys of the design in their order. They decide the sign of the comparisons, the first
            and the last column, and which cells are empty; default: the cells of the observations.
        confidence: Of the intervals, and of all decisions.
        plan: That of a sequential experiment; None if the seeds were fixed beforehand. With a plan of K interim
            analyses every interval is at 1 - (1 - confidence) / K, so that it holds at whichever of them one stops.

    Raises:
        ValueError: The confidence is outside 0 to 1, or an observation is in none of `cells`.
    """
    checked_confidence(confidence)
    table = Table(observations, cells)
    num_analyses = len(plan.analyses) if plan else 1
    comparisons, family_size = compare(table, confidence=confidence, plan=plan)
    return Analysis(
        cells=tuple(summarize(table, key, confidence=1 - (1 - confidence) / num_analyses) for key in table.cells),
        comparisons=comparisons,
        interaction=interact(table, confidence=confidence, plan=plan),
        confidence=confidence,
        family_size=family_size,
        interim_analyses=plan.analyses if plan else (),
    )
