"""`normlab experiment report`, `bundle` and `import`: experiments as files."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Annotated

import typer
from rich.console import Console

from service.cli.exits import Invalid
from service.cli.session import AsJson, Json, connect, console, print_json
from service.client import Client
from service.experiment_client import Checkpoints
from service.report import Document, as_html, as_markdown, compose

ExperimentId = Annotated[str, typer.Argument(help="Id of the experiment.", show_default=False)]


def report(
    context: typer.Context,
    experiment: ExperimentId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="NAME.html or NAME.md; default: the experiment's id .html")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Default: what the experiment declared.")] = None,
    statistic: Annotated[str | None, typer.Option(help="final, best or median_last_5.")] = None,
) -> None:
    """Write what was found as a file: the answer, its table and figure, and all it takes to repeat it."""
    target = output or Path(f"{experiment}.html")
    if target.suffix not in (".html", ".md"):
        raise Invalid(f"--output is {target}: give a name that ends in .html or .md")
    picture = target.with_suffix(".svg")
    with connect(context) as client:
        document = _report(client, experiment, metric, statistic, picture.name)
    written = [target]
    if target.suffix == ".html":
        target.write_text(as_html(document), encoding="utf-8")
    else:
        target.write_text(as_markdown(document), encoding="utf-8")
        for figure in document.figures:
            picture.write_text(figure.svg, encoding="utf-8")
            written.append(picture)
    console().print("  ".join(map(str, written)))


def _report(client: Client, experiment: str, metric: str | None, statistic: str | None, picture: str) -> Document:
    found = client.experiment(experiment)
    results = client.results(experiment, metric=metric, statistic=statistic)
    listed = list(client.jobs(experiment=experiment, sort="created_at"))
    with Console(stderr=True).status(f"reading {len(listed)} jobs"):
        jobs: list[Json] = [
            client.job(job["id"]) | {"checkpoints": list(client.checkpoints(job["id"]))} for job in listed
        ]
    return compose(found, results, jobs, _versions(), picture)


def bundle(
    context: typer.Context,
    experiment: ExperimentId,
    output: Annotated[Path, typer.Option("--output", "-o", help="File or folder to write to.")] = Path(),
    checkpoints: Annotated[
        Checkpoints, typer.Option(help="Of each job, the files of which checkpoints: none, best, latest or all.")
    ] = "none",
) -> None:
    """Write an experiment that has ended as one file, for another installation or for an archive."""
    if not output.is_dir() and not output.parent.is_dir():
        raise Invalid(f"--output is {output}: the folder {output.parent} does not exist")
    with connect(context) as client:
        path = client.bundle(experiment, output, checkpoints)
    console().print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


def take_in(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A bundle.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Take in the experiment of a bundle. What is here already stays as it is."""
    with connect(context) as client:
        found = client.import_bundle(file)
    if as_json:
        print_json(found)
    else:
        console().print(f"{found['id']}  {found['jobs']} jobs  {found['name']}", markup=False)


def _versions() -> dict[str, str]:
    try:
        ours = version("normlab")
    except PackageNotFoundError:
        ours = "not installed"
    return {"normlab": ours, "python": python_version()}
