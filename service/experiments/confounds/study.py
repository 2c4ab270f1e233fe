"""The jobs of a study in the form of the checks, and the checks themselves."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from worker.spec import TrainingSpec

Severity = Literal["warning", "note"]
"""A warning questions a comparison; a note gives information about it."""


@dataclass(frozen=True)
class Candidate:
    """A job that is, or is to be, part of an experiment.

    `id` is the job's id, or its index in a dry run. `device` (as "cpu", or a GPU's name), `precision` (float32 or
    bfloat16) and `versions` (of the software, by name) are what it ran on, in and with; None and empty before it ran.
    """

    id: str
    spec: TrainingSpec
    device: str | None = None
    precision: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Configuration:
    """Jobs that differ in their seed alone; `spec` is that of the first."""

    spec: TrainingSpec
    jobs: tuple[Candidate, ...]


Study = Sequence[Configuration]
Finding = tuple[str, Iterable[Configuration | Candidate]] | None
"""A sentence and the jobs concerned; None if nothing was found."""


@dataclass(frozen=True)
class Check:
    """One check. `meaning` describes it for any study; the result of `find` is about this one."""

    code: str
    meaning: str
    severity: Severity
    find: Callable[[Study], Finding]


def check(meaning: str, severity: Severity = "warning") -> Callable[[Callable[[Study], Finding]], Check]:
    """Turn a function into a check, with its name as the code."""
    return lambda find: Check(find.__name__, meaning, severity, find)


FIELDS = tuple(
    name for name in TrainingSpec.model_fields if name not in {"seed", "recipe", "checkpoint", "deterministic"}
)
"""The fields that determine the weights, without the seed."""


def configurations(jobs: Iterable[Candidate]) -> list[Configuration]:
    """Return the jobs, grouped by their specs without the seed."""
    found: dict[Hashable, list[Candidate]] = defaultdict(list)
    for job in jobs:
        found[tuple(getattr(job.spec, name) for name in FIELDS)].append(job)
    return [Configuration(alike[0].spec, tuple(alike)) for alike in found.values()]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in "1 epoch" or "1,000 epochs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(values: Iterable[object]) -> str:
    """Return the distinct values as a list: a; a and b; a, b and c; a, b, c, d, e, f and 3 more."""
    texts = list(dict.fromkeys(map(str, values)))
    if len(texts) > _LISTED:
        return f"{', '.join(texts[:_LISTED])} and {len(texts) - _LISTED} more"
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


_LISTED = 6
