"""Several experiments in one table: their cells side by side, and the differences of equal cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from service.experiments import axes, results
from service.experiments.confounds import Confound
from service.experiments.results import Question, ResultTable
from service.experiments.runs import Run
from service.experiments.statistics.comparisons import Comparison, compare
from service.experiments.statistics.observations import Table

CODES: dict[str, str] = {
    "experiments_differ": "Equal cells of two experiments differ in other settings than the seed.",
    "nothing_shared": "The experiments have no cell in common, so there are no differences between them.",
    "not_paired": "An experiment has cells of several configurations, so its seeds cannot be paired with another's.",
    "sequential_seeds": "An experiment added seeds until its own comparisons were resolved, not those with another.",
}
"""The meaning of each code, in the order of reporting."""


@dataclass(frozen=True)
class Member:
    """One of the experiments that are compared."""

    id: str
    title: str
    table: ResultTable
    sequential: bool = False
    """Whether its number of seeds depends on its values."""


@dataclass(frozen=True)
class Difference:
    """The difference of an equal cell of two experiments. In `comparison`, the rows are their ids, a and b."""

    row: str
    column: str
    comparison: Comparison


@dataclass(frozen=True)
class Differences:
    """The differences of all cells that two or more experiments share."""

    differences: tuple[Difference, ...]
    family_size: int
    """The number of differences that p_adjusted is adjusted for."""


def differences(members: Sequence[Member], *, confidence: float) -> Differences:
    """Compare every cell that several experiments share, paired over seeds, with a p adjusted for the whole table.

    These are the comparisons of one experiment with the experiments as rows and the cells as columns. If a cell of an
    experiment has several configurations, a seed names several of its jobs, and nothing is compared.
    """
    if any(member.table.pooled for member in members):
        return Differences((), 0)
    shared = _shared(members)
    names = {cell: str(number) for number, cell in enumerate(shared)}
    observations = [
        replace(observation, row=member.id, column=names[observation.row, observation.column])
        for member in members
        for observation in member.table.observations
        if (observation.row, observation.column) in names
    ]
    # In the order of the experiments, which decides the sign of the differences.
    cells = [(member.id, names[cell]) for member in members for cell in shared if cell in member.table.cells]
    found, family_size = compare(Table(observations, cells), confidence=confidence, plan=None)
    return Differences(
        tuple(Difference(*shared[int(comparison.column)], comparison) for comparison in found), family_size
    )


def compared_warnings(members: Sequence[Member]) -> tuple[Confound, ...]:
    """Return what besides rows and columns may explain a difference between the experiments."""
    found = (_experiments_differ(members), _nothing_shared(members), _not_paired(members), _sequential_seeds(members))
    runs = [run for member in members for run in member.table.runs]
    # A job of one experiment that repeats one of another counts in both.
    confounds = (one for one in results.warnings(runs) if one.code != "repeated_job")
    return (*(one for one in found if one is not None), *confounds)


def _shared(members: Sequence[Member]) -> list[tuple[str, str]]:
    """Return the cells that two or more experiments have."""
    counts: dict[tuple[str, str], int] = {}
    for member in members:
        for cell in member.table.cells:
            counts[cell] = counts.get(cell, 0) + 1
    return [cell for cell, count in counts.items() if count > 1]


def _experiments_differ(members: Sequence[Member]) -> Confound | None:
    shared = _shared(members)
    settings: dict[str, dict[str, dict[str, None]]] = {}
    differing: set[str] = set()
    jobs: list[str] = []
    for cell in shared:
        with_cell = [member for member in members if cell in member.table.cells]
        per_member = [_settings(member.table.cells[cell], member.table.question) for member in with_cell]
        for name in {name for found in per_member for name in found}:
            values = [found.get(name, {}) for found in per_member]
            if any(set(value) != set(values[0]) for value in values):
                differing.add(name)
            for member, value in zip(with_cell, values, strict=True):
                settings.setdefault(name, {}).setdefault(member.title, {}).update(value)
        jobs += [run.id for member in with_cell for run in member.table.cells[cell]]
    if not differing:
        return None
    told = "; ".join(
        f"{name} {', '.join(f'{_listed(values)} ({title})' for title, values in settings[name].items())}"
        for name in sorted(differing)
    )
    several = len(differing) > 1
    consequence = (
        "A difference of equal cells may be due to any of these, whose effects cannot be separated."
        if several
        else "A difference of equal cells is that of this setting."
    )
    return Confound(
        "experiments_differ",
        f"Equal cells differ in {told}. {consequence}",
        tuple(jobs),
        "warning" if several else "note",
    )


def _listed(values: Mapping[str, None]) -> str:
    return " or ".join(values) or "none"


def _settings(runs: Sequence[Run], question: Question) -> dict[str, dict[str, None]]:
    """Return the labels of the settings of a cell that are no axis, by field, as in `optimizer.learning_rate`."""
    found: dict[str, dict[str, None]] = {}
    for run in {run.configuration: run for run in runs}.values():
        for name, value in _flat(results.besides(run.spec, question)).items():
            found.setdefault(name, {})["not set" if value is None else axes.label(name, value)] = None
    return found


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{part}": entry for part, entry in value.items()}
        else:
            flat[name] = value
    return flat


def _nothing_shared(members: Sequence[Member]) -> Confound | None:
    if _shared(members):
        return None
    question = members[0].table.question
    detail = (
        f"No {question.rows} at a {question.columns} is in two of the experiments, so nothing is compared: their "
        "values stand side by side only. Choose other rows or columns."
    )
    return Confound("nothing_shared", detail, (), "note")


def _not_paired(members: Sequence[Member]) -> Confound | None:
    pooled = [member for member in members if member.table.pooled]
    if not pooled:
        return None
    told = "; ".join(f"{', '.join(member.table.pooled)} ({member.title})" for member in pooled)
    detail = (
        f"Jobs of one cell differ in {told}, so their seeds cannot be paired and no differences are computed. Choose "
        "one of the values by `where`, or make the field rows or columns."
    )
    return Confound("not_paired", detail, tuple(run.id for member in pooled for run in member.table.runs))


def _sequential_seeds(members: Sequence[Member]) -> Confound | None:
    sequential = [member for member in members if member.sequential]
    if not sequential:
        return None
    names = ", ".join(member.title for member in sequential)
    detail = (
        f"Seeds were added until the comparisons within {names} were resolved. For differences between experiments the "
        "p values assume a number of seeds that does not depend on the values, so the stated error rate is approximate."
    )
    return Confound("sequential_seeds", detail, ())
