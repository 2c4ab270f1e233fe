"""Statistics of repeated training runs: intervals, paired tests, the interaction, and sequential seeds.

Pure functions of observations: no database, no HTTP, no torch. numpy and scipy are imported within functions, because
the command line imports the types of this package, and has to start fast.
"""

from service.experiments.statistics.analysis import Analysis, analyse
from service.experiments.statistics.cells import Cell
from service.experiments.statistics.comparisons import Comparison
from service.experiments.statistics.interaction import Contrast, Interaction
from service.experiments.statistics.observations import CellKey, Observation
from service.experiments.statistics.plan import SeedPlan, plan_analyses
from service.experiments.statistics.sequential import InterimAnalysis, Wanted, undecided_cells

__all__ = [
    "Analysis",
    "Cell",
    "CellKey",
    "Comparison",
    "Contrast",
    "Interaction",
    "InterimAnalysis",
    "Observation",
    "SeedPlan",
    "Wanted",
    "analyse",
    "plan_analyses",
    "undecided_cells",
]
