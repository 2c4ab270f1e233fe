"""`normlab experiment report`, `bundle` and `import`: experiments as files."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from service.cli.exits import Invalid
from service.cli.output import announce, is_standard_output
from service.cli.session import AsJson, ExperimentId, connect, experiment_id
from service.client.experiments import Checkpoints
from service.client.files import write_file


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
    with connect(context) as client:
        experiment = experiment_id(client, experiment)
        target = output or Path(f"{experiment}.html")
        picture = target.with_suffix(".svg")
        figure = quote(picture.name)
        if target.suffix == ".html":
            written = {target: client.experiments.report(experiment, "html", **question)}
        else:
            written = {target: client.experiments.report(experiment, "markdown", figure=figure, **question)}
            if f"]({figure})" in written[target]:
                written[picture] = client.experiments.report(experiment, "svg", **question)
    for path, content in written.items():
        write_file(path, content.encode())
    announce(None, "  ".join(map(str, written)), stderr=any(map(is_standard_output, written)))


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
    file: Annotated[Path, typer.Argument(help="Path of the bundle.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Import the experiment of a bundle. Jobs that already exist are not changed."""
    with connect(context) as client:
        found = client.experiments.import_bundle(file)
    announce(found, f"{found['id']}  {found['jobs']} jobs  {found['name']}", as_json=as_json)
