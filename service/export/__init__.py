"""Jobs in the formats of other tools: TensorBoard's event files, MLflow's runs. A client of the public API.

What other tools cannot take back is not given to them: a row is exported once it is final, that is, once a checkpoint
covers it or its job has ended. So no row of theirs is ever superseded, whatever happens to workers.
"""

from service.export.following import Selection, Sink, export
from service.export.runs import ExportError, Point, Run

__all__ = ["ExportError", "Point", "Run", "Selection", "Sink", "export"]
