"""What besides the normalization and the batch size may explain a difference between the jobs of an experiment.

Confounds are reported and never refuse a job: some of them are choices of the paper. Of this project, the package
imports the training specification and the labels of its fields.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.experiments.confounds import design, normalizations, weights
from service.experiments.confounds.study import Candidate, Configuration, Severity, configurations

__all__ = ["CODES", "Candidate", "Confound", "Severity", "lint"]

_CHECKS = (*design.CHECKS, *weights.CHECKS, *normalizations.CHECKS)

CODES: dict[str, str] = {check.code: check.meaning for check in _CHECKS}
"""The meaning of each code, in the order of reporting."""


@dataclass(frozen=True)
class Confound:
    """A reason to doubt a difference between jobs."""

    code: str
    """Stable, snake_case; one of `CODES`."""
    detail: str
    """A sentence with the numbers of these jobs."""
    jobs: tuple[str, ...]
    """The ids of the jobs concerned, in the given order."""
    severity: Severity = "warning"


def lint(jobs: Sequence[Candidate]) -> tuple[Confound, ...]:
    """Return the confounds of a set of jobs, each code at most once, in the order of `CODES`."""
    study = configurations(jobs)
    confounds = []
    for check in _CHECKS:
        if study and (finding := check.find(study)):
            detail, about = finding
            ids = {job.id for one in about for job in (one.jobs if isinstance(one, Configuration) else (one,))}
            confounds.append(
                Confound(check.code, detail, tuple(job.id for job in jobs if job.id in ids), check.severity)
            )
    return tuple(confounds)
