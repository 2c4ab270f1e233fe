"""`normlab experiment report`, `figure`, `bundle` and `import`: experiments as files."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from service.cli.exits import Invalid
from service.cli.ids import ExperimentId, experiment_id
from service.cli.output import announce, is_standard_output
from service.cli.session import AsJson, connect
from service.client.experiment_calls import FigureFormat
from service.client.experiments import Checkpoints
from service.client.files import write_file

FIGURES: dict[str, FigureFormat] = {".pdf": "pdf", ".svg": "svg", ".png": "png", ".csv": "csv"}


def report(
    context: typer.Context,
    experiment: ExperimentId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="NAME.html or NAME.md. Default: EXPERIMENT.html.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metric of the results. Default: the declared outcome of the experiment.")
    ] = None,
    statistic: Annotated[str | None, typer.Option(help="One of final, best and median_last_5.")] = None,
    failed: Annotated[
        str | None, typer.Option(help="How failed jobs count: omitted, or chance, as the error of a guess.")
    ] = None,
) -> None:
    """Write a report: findings, table, figure, and everything needed to repeat the experiment."""
    if output is not None and output.suffix not in (".html", ".md"):
        raise Invalid(f"--output is {output}: give a name that ends in .html or .md")
    question = {"metric": metric, "statistic": statistic, "failed": failed}
    drawn: dict[Path, bytes] = {}
    with connect(context) as client:
        experiment = experiment_id(client, experiment)
        target = output or Path(f"{experiment}.html")
        picture = target.with_suffix(".svg")
        figure = quote(picture.name)
        if target.suffix == ".html":
            text = client.experiments.report(experiment, "html", **question)
        else:
            text = client.experiments.report(experiment, "markdown", figure=figure, **question)
            if f"]({figure})" in text:
                drawn[picture] = client.experiments.figure(experiment, "svg", "results", **question)
    written = {target: text.encode()} | drawn
    for path, content in written.items():
        write_file(path, content)
    announce(None, "  ".join(map(str, written)), stderr=any(map(is_standard_output, written)))


def figure(
    context: typer.Context,
    experiment: ExperimentId,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="NAME.pdf, .svg, .png, or .csv for what is drawn. Default: EXPERIMENT.pdf."
        ),
    ] = None,
    curves: Annotated[bool, typer.Option("--curves", help="Draw the learning curves instead of the results.")] = False,
    width: Annotated[
        float, typer.Option(min=40, max=400, help="Width in mm: 84 is one column of a paper, 174 two.")
    ] = 84,
    title: Annotated[bool, typer.Option("--title", help="Put the title above the figure.")] = False,
    log_y: Annotated[bool, typer.Option("--log-y", help="Draw a logarithmic vertical axis.")] = False,
    metric: Annotated[str | None, typer.Option(help="Metric. Default: the declared outcome of the experiment.")] = None,
    statistic: Annotated[
        str | None, typer.Option(help="One of final, best, median_last_5 and at_step; of results only.")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Field with a line for each value; of results only.")] = None,
    columns: Annotated[str | None, typer.Option(help="Field of the horizontal axis; of results only.")] = None,
    spread: Annotated[
        str | None, typer.Option(help="Of curves only: interval (95 %), range, or each, a line for each seed.")
    ] = None,
) -> None:
    """Write a figure for a paper: the error by batch size with intervals, or the learning curves.

    Example: normlab experiment figure ID -o fig1.pdf --width 84
    """
    format = FIGURES.get(output.suffix) if output else "pdf"
    if format is None:
        raise Invalid(f"--output is {output}: give a name that ends in {', '.join(FIGURES)}")
    of_results = {"statistic": statistic, "rows": rows, "columns": columns}
    wrong = {"spread": spread} if not curves else of_results
    for name, value in wrong.items():
        if value is not None:
            raise Invalid(f"--{name} is {value!r}: it does not apply to {'curves' if curves else 'results'}")
    query = {"width": width, "title": title, "log_y": log_y, "metric": metric}
    query |= {"spread": spread} if curves else of_results
    with connect(context) as client:
        experiment = experiment_id(client, experiment)
        content = client.experiments.figure(experiment, format, "curves" if curves else "results", **query)
    target = output or Path(f"{experiment}.pdf")
    write_file(target, content)
    announce(None, str(target), stderr=is_standard_output(target))


def bundle(
    context: typer.Context,
    experiment: ExperimentId,
    output: Annotated[Path, typer.Option("--output", "-o", help="File or folder to write to.")] = Path(),
    checkpoints: Annotated[
        Checkpoints, typer.Option(help="Checkpoints of each job to include: none, best, latest or all.")
    ] = "none",
) -> None:
    """Write a finished experiment to one file, for another installation or an archive."""
    if not output.is_dir() and not output.parent.is_dir():
        raise Invalid(f"--output is {output}: the folder {output.parent} does not exist")
    with connect(context) as client:
        path = client.experiments.bundle(experiment_id(client, experiment), output, checkpoints)
    size = f"  {path.stat().st_size / 1e6:.1f} MB" if path.is_file() else ""
    announce(None, f"{path}{size}", stderr=is_standard_output(path))


def import_bundle(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="Path of the bundle.", show_default=False)] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Import the finished study that comes with normlab, instead of a file.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Import the experiment of a bundle. Jobs that already exist are not changed."""
    if example == (file is not None):
        raise Invalid("give either the path of a bundle or --example")
    with connect(context) as client:
        found = client.experiments.import_bundle(file) if file else client.experiments.import_example()
    announce(found, f"{found['id']}  {found['jobs']} jobs  {found['name']}", as_json=as_json)
