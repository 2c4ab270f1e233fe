"""Figures: charts of results and of learning curves as SVG, PDF and PNG for papers, and as CSV of what is drawn.

One renderer draws all of them: matplotlib, which is imported when the first figure is drawn.
"""

from service.figures.chart import Chart, Point, Series, as_csv
from service.figures.curves import Curve, cell_curves, job_curves
from service.figures.drawing import COLUMN_MM, PAGE_MM, Picture, draw
from service.figures.quantities import grouped, parallel_chart, scatter_chart
from service.figures.results import comparison_chart, results_chart

__all__ = [
    "COLUMN_MM",
    "PAGE_MM",
    "Chart",
    "Curve",
    "Picture",
    "Point",
    "Series",
    "as_csv",
    "cell_curves",
    "comparison_chart",
    "draw",
    "grouped",
    "job_curves",
    "parallel_chart",
    "results_chart",
    "scatter_chart",
]
