"""What a table of repeated trainings says, and how sure that is: intervals, paired tests, the interaction, more seeds.

Pure functions of observations: no database, no HTTP, no torch. numpy and scipy are imported when a number is asked for,
so that whoever only reads this package's types starts fast.
"""

from service.experiments.statistics.analysis import Analysis, analyse
from service.experiments.statistics.cells import Cell
from service.experiments.statistics.comparisons import Comparison
from service.experiments.statistics.interaction import Contrast, Interaction
from service.experiments.statistics.observations import CellKey, Observation
from service.experiments.statistics.plan import SeedPlan, plan_looks
from service.experiments.statistics.sequential import Look, Wanted, undecided_cells

__all__ = [
    "Analysis",
    "Cell",
    "CellKey",
    "Comparison",
    "Contrast",
    "Interaction",
    "Look",
    "Observation",
    "SeedPlan",
    "Wanted",
    "analyse",
    "plan_looks",
    "undecided_cells",
]
