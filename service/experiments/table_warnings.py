"""Warnings about one table of results, beside the confounds of its jobs."""

from collections.abc import Sequence
from dataclasses import replace

from service.experiments import axes
from service.experiments.confounds import Confound
from service.experiments.results import Question, ResultTable, evaluation_metric
from service.experiments.search import Choice
from service.experiments.statistics import Cell
from service.experiments.statistics.intervals import wilson_interval
from service.jobs import TERMINAL
from worker.metrics import METRICS

CODES: dict[str, str] = {
    "pooled": "Jobs of one cell differ in more than the seed.",
    "outcome_not_declared": "Sequential seeds were planned for another metric, or other rows and columns.",
    "selected_on_the_test_set": "Without a holdout, `best` is chosen on the test images themselves: it is optimistic.",
    "tuned_value_at_the_edge": "A chosen value is the smallest or the largest searched: a better one may lie beyond.",
    "not_tuned": "No values could be chosen for a row or a cell, so it has no tuned jobs.",
    "failed_seeds": "Trainings failed, so the mean of their cell is that of the others, usually of better ones.",
    "unequal_seeds": "Cells have different numbers of seeds.",
}
"""The meaning of each code, in the order of reporting."""


def table_warnings(
    table: ResultTable,
    cells: tuple[Cell, ...],
    *,
    confidence: float,
    declared: Question | None = None,
    choices: Sequence[Choice] = (),
) -> tuple[Confound, ...]:
    """Return the warnings about a table.

    Args:
        table: The table.
        cells: Its cells, analysed.
        confidence: Of the interval of the share of failures.
        declared: The outcome by which sequential seeds are allocated; None with fixed seeds.
        choices: The values that were searched for the jobs of the table.
    """
    found = (
        _pooled(table),
        _outcome_not_declared(table, declared),
        _selected_on_the_test_set(table),
        _tuned_value_at_the_edge(choices),
        _not_tuned(choices),
        _failed_seeds(table, cells, confidence),
        _unequal_seeds(table, cells) if declared is None else None,
    )
    return tuple(confound for confound in found if confound is not None)


def _pooled(table: ResultTable) -> Confound | None:
    if not table.pooled:
        return None
    names = ", ".join(table.pooled)
    detail = (
        f"Jobs of one cell differ in {names}: their spread is not that of the seed alone. "
        "Choose one of them by `where`, or make them rows or columns."
    )
    return Confound("pooled", detail, tuple(run.id for run in table.runs))


def _outcome_not_declared(table: ResultTable, declared: Question | None) -> Confound | None:
    if declared is None:
        return None
    metric = declared.metric or evaluation_metric(table.runs)
    asked, meant = (
        (question.metric, question.statistic, question.rows, question.columns)
        for question in (table.question, replace(declared, metric=metric))
    )
    if asked == meant:
        return None
    detail = (
        f"The seeds were spent to resolve {meant[1]} {meant[0]} of {meant[2]} × {meant[3]}: for another question the "
        "stated error rate does not hold."
    )
    return Confound("outcome_not_declared", detail, ())


def _selected_on_the_test_set(table: ResultTable) -> Confound | None:
    metric = table.question.metric
    if table.question.statistic != "best" or metric is None or METRICS[metric].split != "test":
        return None
    concerned = [run.id for run in table.runs if not run.holdout]
    if not concerned:
        return None
    which = "each job" if len(concerned) == len(table.runs) else f"{len(concerned)} jobs without a holdout"
    detail = (
        f"`best` takes from {which} the epoch with the lowest {METRICS[metric].title}, so the test images choose the "
        "epoch that they judge: it is optimistic, and more so for errors that vary more between epochs. `final` and "
        "`median_last_5` are not, nor is `best` of jobs with a holdout, which chooses the epoch."
    )
    return Confound("selected_on_the_test_set", detail, tuple(concerned))


def _tuned_value_at_the_edge(choices: Sequence[Choice]) -> Confound | None:
    found = [
        f"{axes.parts_of(field)[-1]} {axes.label(field, (choice.values or {})[field])} of {_place(choice)}"
        for choice in choices
        for field in choice.edges
    ]
    if not found:
        return None
    detail = f"These are the smallest or largest values searched, and better ones may lie beyond: {'; '.join(found)}."
    return Confound("tuned_value_at_the_edge", detail, ())


def _not_tuned(choices: Sequence[Choice]) -> Confound | None:
    found = [f"{_place(choice)}: {choice.reason}" for choice in choices if choice.reason is not None]
    return Confound("not_tuned", " ".join(found), ()) if found else None


def _place(choice: Choice) -> str:
    part = choice.part
    return part.row if part.column is None else f"{part.row} at {part.column}"


def _failed_seeds(table: ResultTable, cells: tuple[Cell, ...], confidence: float) -> Confound | None:
    failed = [cell for cell in cells if cell.failed]
    if not failed:
        return None
    shares = []
    for cell in failed:
        ended = cell.n + cell.without_value
        low, high = wilson_interval(cell.failed, ended, confidence=confidence)
        shares.append(
            f"{cell.failed} of {ended} seeds of {cell.row} at {cell.column} ({100 * confidence:g} % interval "
            f"{100 * low:.0f} to {100 * high:.0f} %)"
        )
    consequence = (
        "They count as the error of a guess."
        if table.question.failed == "chance"
        else "Their cells have the values of the others, usually the better ones. `failed=chance` counts each as the "
        "error of a guess."
    )
    jobs = {run.id for cell in failed for run in table.cells[cell.row, cell.column] if run.id not in cell.jobs}
    ids = tuple(run.id for run in table.runs if run.id in jobs and run.status in TERMINAL)
    return Confound("failed_seeds", f"Trainings failed: {'; '.join(shares)}. {consequence}", ids)


def _unequal_seeds(table: ResultTable, cells: tuple[Cell, ...]) -> Confound | None:
    counts = {cell.n for cell in cells}
    if len(counts) < 2 or any(run.status not in TERMINAL for run in table.runs):
        return None
    detail = f"Cells have from {min(counts)} to {max(counts)} seeds: their intervals are not equally wide by design."
    return Confound("unequal_seeds", detail, (), "note")
