"""What the anonymous link of a share leaves out, so that a reviewer does not learn whose experiment it is."""

from typing import Any, TypeVar

from service.api.schemas.experiment import ExperimentDetail
from service.api.schemas.job import JobDetail, JobView

View = TypeVar("View", ExperimentDetail, JobView, JobDetail)

TOLD = ("diverged", "out_of_memory")
"""Codes of errors whose messages are of this service. Others may quote a path, or the name of a machine."""
HIDDEN = "hidden"


def anonymous(view: View) -> View:
    """Return a view without names of people and machines, notes and labels."""
    hidden: dict[str, Any] = {"submitted_by": None}
    if isinstance(view, ExperimentDetail):
        base = {name: value for name, value in view.request.base.items() if name != "labels"}
        return view.model_copy(update=hidden | {"request": view.request.model_copy(update={"base": base})})
    hidden |= {"notes": "", "labels": {}}
    if view.error is not None and view.error.code not in TOLD:
        hidden["error"] = view.error.model_copy(update={"message": HIDDEN})
    if isinstance(view, JobDetail):
        hidden["waits_for"] = None
        hidden["attempts"] = [one.model_copy(update={"workers": [], "reason": None}) for one in view.attempts]
        hidden["history"] = [one.model_copy(update={"reason": None}) for one in view.history]
    return view.model_copy(update=hidden)
