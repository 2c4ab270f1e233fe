"""What besides normalization and batch size differs between the jobs of an experiment, or is not what it seems."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.spec import TrainingSpec


@dataclass(frozen=True)
class Candidate:
    """A job that is, or is to be, part of an experiment.

    `id` is the job's id, or its index in a dry run. `device` (as "cpu", or a GPU's name) and `precision` (float32 or
    bfloat16) are what it ran on and in; None before it ran.
    """

    id: str
    spec: TrainingSpec
    device: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Confound:
    """Something that may explain a difference besides what the experiment is about: for people to judge, no refusal."""

    code: str
    """Stable, snake_case; one of `CODES`."""
    detail: str
    """A sentence with the numbers in it."""
    jobs: tuple[str, ...]
    """The ids it is about, in the order given."""


CODES: dict[str, str] = {}
"""What each code means, in a sentence."""


def lint(jobs: Sequence[Candidate]) -> tuple[Confound, ...]:
    """What is to be warned of about these jobs, each code at most once, in the order of `CODES`."""
    raise NotImplementedError
