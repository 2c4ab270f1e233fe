"""`normlab results`: the results of an experiment, or of any jobs."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from service.cli.exits import Invalid
from service.cli.grids import results_grid
from service.cli.ids import FORM, argument, experiment_id
from service.cli.output import console, plain_text, write_content
from service.cli.session import AsJson, Json, connect
from service.client.experiment_calls import TableFormat
from service.report import as_latex, as_markdown, tables
from worker.metrics import OutcomeMetric


class Format(StrEnum):
    """An output format of results."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"
    MARKDOWN = "markdown"
    LATEX = "latex"


class FlatTable(StrEnum):
    """A table that CSV and Parquet can hold."""

    CELLS = "cells"
    COMPARISONS = "comparisons"
    OBSERVATIONS = "observations"
    CHOICES = "choices"


def results(
    context: typer.Context,
    experiment: Annotated[
        str | None, argument("experiment", f"Id of the experiment: {FORM} Default: all jobs.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="One of " + ", ".join(get_args(OutcomeMetric)) + ". Default: the declared outcome of the experiment."
        ),
    ] = None,
    statistic: Annotated[str | None, typer.Option(help="One of final, best, median_last_5 and at_step.")] = None,
    step: Annotated[int | None, typer.Option(help="Step of the statistic at_step.")] = None,
    rows: Annotated[str | None, typer.Option(help="Field whose values are compared, such as normalization.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Field within whose values rows are compared, such as batch_size.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="Only jobs with this FIELD=LABEL. May be repeated.")] = None,
    failed: Annotated[
        str | None, typer.Option(help="How failed jobs count: omitted, or chance, as the error of a guess.")
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="Of a tuned experiment: tuned, or untuned, its jobs as they were given."),
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="Confidence level of the intervals. Default: 0.95.")] = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="Output format.")] = Format.TABLE,
    table: Annotated[FlatTable, typer.Option(help="Table to write as CSV or Parquet.")] = FlatTable.CELLS,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write instead of standard output.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show means with their intervals, and which differences are real."""
    if as_json:
        format = Format.JSON
    for entry in where or ():
        if "=" not in entry:
            raise Invalid(f"--where is {entry!r}: give it as FIELD=LABEL")
    if stage is not None and experiment is None:
        raise Invalid(f"--stage is {stage}: it belongs to an experiment, so give its id too")
    if format is Format.PARQUET and output is None and sys.stdout.isatty():
        raise Invalid("Parquet cannot be printed on a terminal: give --output FILE")
    question: dict[str, Any] = {
        "metric": metric,
        "statistic": statistic,
        "step": step,
        "rows": rows,
        "columns": columns,
        "where": [entry.replace("=", ":", 1) for entry in where] if where else None,
        "failed": failed,
        "stage": stage,
        "confidence": confidence,
    }
    with connect(context) as client:
        experiment = experiment and experiment_id(client, experiment)
        if format in (Format.CSV, Format.PARQUET):
            kind: TableFormat = "csv" if format is Format.CSV else "parquet"
            content = client.experiments.results_table(experiment, kind, table=table.value, **question)
        else:
            found = client.experiments.results(experiment, **question)
            if format is Format.TABLE and output is None:
                console().print(results_grid(found))
                return
            content = _text(found, format).encode()
    write_content(content, output)


def _text(found: Json, format: Format) -> str:
    match format:
        case Format.MARKDOWN:
            return as_markdown(tables(found))
        case Format.LATEX:
            return as_latex(found)
        case Format.JSON:
            return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
        case _:
            return plain_text(results_grid(found))
