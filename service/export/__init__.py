"""Export of jobs to other tools: event files of TensorBoard, runs of MLflow. A client of the public API.

These tools cannot retract a value. A row is therefore exported once it is final: once a checkpoint covers it, or its
job has ended. Exported rows are never superseded, even if workers are lost.
"""

from service.export.following import Selection, Sink, export
from service.export.runs import ExportError, Point, Run

__all__ = ["ExportError", "Point", "Run", "Selection", "Sink", "export"]
