"""`normlab compare`: the cells of several experiments side by side."""

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from service.cli.exits import Invalid
from service.cli.folding import Grid
from service.cli.grids import cell_text, resolved_text
from service.cli.ids import ExperimentIds, experiment_id
from service.cli.output import console, plain_text, write_content
from service.cli.session import AsJson, Json, connect
from service.experiments.numbers import NONE, Number, words
from service.report import comparison_as_latex
from worker.metrics import OutcomeMetric


class Format(StrEnum):
    """An output format of a comparison."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    LATEX = "latex"


class FlatTable(StrEnum):
    """A table that CSV can hold."""

    CELLS = "cells"
    DIFFERENCES = "differences"


def compare(
    context: typer.Context,
    experiments: ExperimentIds,
    metric: Annotated[
        str | None,
        typer.Option(
            help="One of " + ", ".join(get_args(OutcomeMetric)) + ". Default: the declared outcome of the first one."
        ),
    ] = None,
    statistic: Annotated[str | None, typer.Option(help="One of final, best, median_last_5 and at_step.")] = None,
    step: Annotated[int | None, typer.Option(help="Step of the statistic at_step.")] = None,
    rows: Annotated[str | None, typer.Option(help="Field of the rows, such as normalization.")] = None,
    columns: Annotated[str | None, typer.Option(help="Field of the columns, such as batch_size.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="Only jobs with this FIELD=LABEL. May be repeated.")] = None,
    failed: Annotated[
        str | None, typer.Option(help="How failed jobs count: omitted, or chance, as the error of a guess.")
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="Confidence level of the intervals. Default: 0.95.")] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="Output format.")] = Format.TABLE,
    table: Annotated[FlatTable, typer.Option(help="Table to write as CSV.")] = FlatTable.CELLS,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of standard output.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the cells of several experiments side by side, and which of their differences are real.

    Example: normlab compare ID OTHER_ID
    """
    if as_json:
        format = Format.JSON
    if len(experiments) < 2:
        raise Invalid("one experiment was given: give the ids of two or more. `normlab results` shows one")
    for entry in where or ():
        if "=" not in entry:
            raise Invalid(f"--where is {entry!r}: give it as FIELD=LABEL")
    question: dict[str, Any] = {
        "metric": metric,
        "statistic": statistic,
        "step": step,
        "rows": rows,
        "columns": columns,
        "where": [entry.replace("=", ":", 1) for entry in where] if where else None,
        "failed": failed,
        "confidence": confidence,
    }
    with connect(context) as client:
        ids = [experiment_id(client, experiment) for experiment in experiments]
        if format is Format.CSV:
            content = client.experiments.compare_table(ids, table=table.value, **question)
        else:
            found = client.experiments.compare(ids, **question)
            if format is Format.TABLE and output is None:
                console().print(comparison_grid(found))
                return
            content = _text(found, format).encode()
    write_content(content, output)


def _text(found: Json, format: Format) -> str:
    if format is Format.JSON:
        return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    if format is Format.LATEX:
        return comparison_as_latex(found)
    return plain_text(comparison_grid(found))


def comparison_grid(comparison: Json) -> RenderableType:
    """Lay out a comparison: a row for each row of each experiment, the differences of equal cells, warnings."""
    number = Number(comparison["metric"])
    columns = [value["label"] for value in comparison["columns"]["values"]]
    title = f"{number.axis}, {comparison['statistic_title']}, by {words(comparison['columns']['field'])}"
    title += f", on {', '.join(comparison['datasets'])}" if comparison["datasets"] else ""
    table = Grid(comparison["rows"]["field"], "EXPERIMENT", *columns, right=columns)
    titles = {one["experiment"]: one["title"] for one in comparison["experiments"]}
    for row in comparison["rows"]["values"]:
        for one in comparison["experiments"]:
            cells = {cell["column"]: cell for cell in one["cells"] if cell["row"] == row["label"]}
            if cells:
                shown = (cell_text(cells.get(column), number) for column in columns)
                table.add_row(row["label"], Text(one["title"]), *shown)
    parts: list[RenderableType] = [Text(title, style="italic"), table]
    tested = [one for one in comparison["differences"] if one["difference"] is not None]
    if tested:
        parts += [Text(), _differences(comparison["columns"]["field"], tested, titles, number)]
    parts += [Text(f"{one['severity']}: {one['detail']}", style="yellow") for one in comparison["warnings"]]
    for one in comparison["experiments"]:
        parts += [
            Text(f"{warning['severity']}, {one['title']}: {warning['detail']}", style="yellow")
            for warning in one["warnings"]
        ]
    return Group(*parts)


def _differences(columns: str, tested: Iterable[Json], titles: Json, number: Number) -> Grid:
    heads = ("ROW", columns.upper(), "A", "B", "N", "A - B", "INTERVAL", "P ADJUSTED", "SIGNIFICANT")
    table = Grid(*heads, right=("N", "A - B", "P ADJUSTED"))
    for one in tested:
        p = one["p_adjusted"]
        table.add_row(
            one["row"],
            one["column"],
            Text(titles[one["experiment_a"]]),
            Text(titles[one["experiment_b"]]),
            str(one["n"]) if not one["failed"] else f"{one['n']}, {one['failed']} failed",
            number.plain(one["difference"], "+"),
            number.range(one["interval"], "+"),
            NONE if p is None else f"{p:.3g}",
            resolved_text(one),
        )
    return table
