"""Tables of experiments and their results on a terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from service.cli.folding import Facts, Grid
from service.cli.tables import STYLES, age_s, duration, labels_text, status_text
from service.experiments.numbers import NONE, Number

Json = dict[str, Any]

STATUS_STYLES = STYLES | {"finished": "green"}
SHORT = {"queued": "wait", "starting": "run", "running": "run", "pausing": "pause", "cancelling": "cancel"}


def experiments_table(found: Iterable[Json]) -> Grid:
    """Lay out experiments, one per row."""
    columns = ("ID", "STATUS", "JOBS", "DONE", "ROWS", "COLUMNS", "AGE")
    listed = list(found)
    named = any(experiment.get("submitted_by") for experiment in listed)
    table = Grid(*columns, *(["BY"] if named else []), "NAME", right=("JOBS", "DONE", "AGE"))
    for experiment in listed:
        table.add_row(
            experiment["id"],
            Text(experiment["status"], style=STATUS_STYLES.get(experiment["status"], "")),
            str(experiment["jobs"]),
            f"{100 * experiment['progress']:.0f} %",
            experiment["rows"],
            experiment["columns"],
            duration(age_s(experiment["created_at"])),
            *([Text(experiment.get("submitted_by") or "–")] if named else []),
            Text(experiment["title"]),
        )
    return table


def experiment_table(experiment: Json) -> Facts:
    """Lay out one experiment: its grid, its progress and its warnings."""
    table = Facts()
    table.add_row("experiment", experiment["id"])
    if experiment["name"]:
        table.add_row("name", Text(experiment["title"]))
    table.add_row("status", Text(experiment["status"], style=STATUS_STYLES.get(experiment["status"], "")))
    for axis in experiment["axes"]:
        labels = [value["label"] for value in axis["values"]]
        table.add_row(f"{len(labels)} {axis['field']}", Text(", ".join(labels)))
    if experiment["budget"] < 1:
        table.add_row("budget", f"{experiment['budget']:g} of the cost")
    if submitter := experiment.get("submitted_by"):
        table.add_row("submitted by", Text(submitter))
    if experiment["precision"]:
        table.add_row("precision", experiment["precision"])
    if labels := experiment["request"]["base"].get("labels"):
        table.add_row("labels", labels_text(labels))
    table.add_row("jobs", counts_text(experiment["counts"]))
    table.add_row("progress", progress_text(experiment))
    if sequential := experiment["sequential"]:
        analyses = sequential["interim_analyses"]
        analysis = f"analysis {sequential['interim_analysis']} of {len(analyses)}"
        state = analysis if sequential["deciding"] else "finished"
        planned = ", ".join(map(str, analyses))
        table.add_row("seeds", f"sequential, interim analyses at {planned} seeds: {state}")
    if tuning := experiment["tuning"]:
        table.add_row("search", search_text(tuning))
        for choice in tuning["choices"]:
            table.add_row("", Text(f"{place_text(choice)}: {choice_text(choice)}"))
    for warning in experiment["warnings"]:
        table.add_row(warning["severity"], Text(warning["detail"], style="yellow"))
    return table


def preview_table(preview: Json) -> Facts:
    """Lay out the answer to a dry run."""
    table = Facts()
    jobs = len(preview["jobs"])
    tuning = preview["tuning"]
    when = "once the search has ended" if tuning else "if every cell needs all seeds"
    more = f", up to {preview['most_jobs']} {when}" if preview["most_jobs"] > jobs else ""
    table.add_row("would create", f"{jobs} jobs in {preview['cells']} cells{more}")
    if tuning:
        others = f"{tuning['untuned_jobs']} untuned, {tuning['tuned_jobs']} tuned"
        table.add_row("of which", f"{tuning['search_jobs']} search ({duration(tuning['search_device_s'])}), {others}")
    cost = preview["cost"]
    elapsed = f", {duration(cost['elapsed_s'])} on {cost['slots']} slots" if cost["elapsed_s"] is not None else ""
    table.add_row("cost", f"{duration(cost['device_s'])} of training and evaluation{elapsed}")
    table.add_row("", Text(cost["basis"], style="dim"))
    if precision := preview["precision"]:
        table.add_row("precision", precision["reason"])
    for warning in preview["warnings"]:
        table.add_row(warning["severity"], Text(warning["detail"], style="yellow"))
    return table


def results_grid(results: Json) -> RenderableType:
    """Lay out results: the headline, means ± half their intervals by row and column, comparisons, warnings."""
    number = Number(results["metric"])
    cells = {(cell["row"], cell["column"]): cell for cell in results["cells"]}
    columns = [value["label"] for value in results["columns"]["values"]]
    table = Grid(results["rows"]["field"], *columns, right=columns)
    title = f"{number.axis}, {results['statistic_title']}, by {results['columns']['field']}"
    title += f", on {', '.join(results['datasets'])}" if results["datasets"] else ""
    title += f", {results['stage']}" if results["stage"] else ""
    for row in results["rows"]["values"]:
        table.add_row(row["label"], *(cell_text(cells.get((row["label"], column)), number) for column in columns))
    headline = Text(results["headline"], style="bold")
    parts: list[RenderableType] = [headline, Text(), Text(title, style="italic"), table]
    if tuning := results["tuning"]:
        parts += [Text(), *_tuning(results, tuning, number)]
    tested = [comparison for comparison in results["comparisons"] if comparison["difference"] is not None]
    if tested:
        parts += [Text(), Text("Pairwise comparisons", style="italic"), _comparisons(tested, number)]
    parts += [Text(f"{warning['severity']}: {warning['detail']}", style="yellow") for warning in results["warnings"]]
    return Group(*parts)


def search_text(tuning: Json) -> str:
    """Format a search as `12 of 24 jobs, 3:07 of computing, over learning_rate (3 values)`."""
    over = ", ".join(f"{axis['field']} ({len(axis['values'])} values)" for axis in tuning["over"])
    waiting = f"; {tuning['missing']} tuned jobs wait for it" if tuning["missing"] else ""
    return (
        f"{tuning['ended']} of {tuning['jobs']} jobs, {duration(tuning['device_s'])} of computing, over {over}{waiting}"
    )


def choice_text(choice: Json) -> str:
    """Format a choice as `learning_rate 0.1 (at the edge)`."""
    if choice["values"] is None:
        return str(choice["reason"] or "still searched")
    return f"{choice['label']}{' (at the edge of what was searched)' if choice['edges'] else ''}"


def place_text(choice: Json) -> str:
    """Format the row of a choice, and its column if it has one."""
    return choice["row"] if choice["column"] is None else f"{choice['row']} at {choice['column']}"


def _tuning(results: Json, tuning: Json, number: Number) -> Iterable[RenderableType]:
    """Lay out what was chosen, and the other table beside the first one."""
    yield Text(f"search: {search_text(tuning)}", style="dim")
    yield from (Text(f"{place_text(choice)}: {choice_text(choice)}") for choice in tuning["choices"])
    if not results["beside"]:
        return
    columns = list(dict.fromkeys(cell["column"] for cell in results["beside"]))
    table = Grid(results["rows"]["field"], *columns, right=columns)
    cells = {(cell["row"], cell["column"]): cell for cell in results["beside"]}
    for row in dict.fromkeys(cell["row"] for cell in results["beside"]):
        table.add_row(row, *(cell_text(cells.get((row, column)), number) for column in columns))
    yield Text("untuned" if results["stage"] == "tuned" else "tuned", style="italic")
    yield table


def cell_text(cell: Json | None, number: Number) -> Text:
    """Format a cell as `12.34 ± 0.56 (3)`, with the jobs that have not succeeded."""
    if cell is None:
        return Text(NONE, style="dim")
    text = Text()
    if cell["mean"] is not None:
        half = number.half(cell["interval"])
        text.append(number.plain(cell["mean"]) + ("" if half is None else f" ± {half}"))
        text.append(f" ({cell['n']})", style="dim")
    for status, count in cell["counts"].items():
        if status != "succeeded":
            text.append(" " if text else "")
            text.append(f"{count} {SHORT.get(status, status)}", style=STYLES.get(status, ""))
    return text or Text(NONE, style="dim")


def resolved_text(comparison: Json) -> Text:
    """Format whether a difference is resolved, or how many more seeds might resolve it."""
    if comparison["resolved"]:
        return Text("yes", style="green")
    more = comparison["seeds_needed"]
    return Text("no" if more is None else f"no, {more} more {'seed' if more == 1 else 'seeds'} might")


def counts_text(counts: Mapping[str, int]) -> Text:
    """Format counts as `3 succeeded, 1 running`."""
    return Text(", ").join(Text(f"{count} ").append_text(status_text(status)) for status, count in counts.items())


def progress_text(experiment: Json) -> str:
    """Format progress as `42 %, 3:07 left`."""
    left = f", {duration(experiment['eta_s'])} left" if experiment["eta_s"] is not None else ""
    return f"{100 * experiment['progress']:.0f} %{left}"


def _seeds(comparison: Json) -> str:
    failed = comparison["failed"]
    return f"{comparison['n']}, {failed} failed" if failed else str(comparison["n"])


def _comparisons(tested: Iterable[Json], number: Number) -> Grid:
    table = Grid(
        "COLUMN", "A", "B", "N", "A - B", "INTERVAL", "P ADJUSTED", "SIGNIFICANT", right=("N", "A - B", "P ADJUSTED")
    )
    for comparison in tested:
        p = comparison["p_adjusted"]
        table.add_row(
            comparison["column"],
            comparison["row_a"],
            comparison["row_b"],
            _seeds(comparison),
            number.plain(comparison["difference"], "+"),
            number.range(comparison["interval"], "+"),
            NONE if p is None else f"{p:.3g}",
            resolved_text(comparison),
        )
    return table
