"""`normlab export`: export jobs to TensorBoard and MLflow."""

import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from service.cli.exits import Exit, Failed, Invalid
from service.cli.ids import FORMS, argument, experiment_id, job_id, option
from service.cli.output import announce, complain
from service.cli.session import Json, connect
from service.client import Client
from service.export import ExportError, Run, Selection, Sink, export

app = typer.Typer(help="Export jobs to other tools: TensorBoard, MLflow.", no_args_is_help=True, rich_markup_mode=None)

Jobs = Annotated[list[str] | None, argument("job", f"Ids of the jobs: {FORMS} Default: all that the options select.")]
Experiment = Annotated[str | None, option("experiment", "--experiment", "-e", help="All jobs of this experiment.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="Only jobs with this KEY=VALUE.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Continue until the jobs have ended.")]
RETRY_S = (1.0, 60.0)
"""Seconds to wait for a service that does not answer; longer while jobs are followed, as it may be restarting."""


@app.command()
def tensorboard(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder for tensorboard --logdir.", show_default=False)],
    jobs: Jobs = None,
    experiment: Experiment = None,
    label: Labels = None,
    follow: Follow = False,
) -> None:
    """Write TensorBoard event files, one folder per job. A second export adds new values."""
    from service.export.tensorboard import TensorBoardSink

    filters = _filters(jobs, experiment, label)
    with connect(context, retry_s=RETRY_S[follow]) as client:
        selection = _selection(client, jobs, filters)
        _run(client, selection, lambda: TensorBoardSink(folder), follow)
    announce(None, f"tensorboard --logdir {shlex.quote(str(folder))}")


@app.command()
def mlflow(
    context: typer.Context,
    jobs: Jobs = None,
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="URL of the MLflow server, or sqlite:///FILE.")
    ] = None,
    experiment: Experiment = None,
    label: Labels = None,
    experiment_name: Annotated[
        str, typer.Option(envvar="MLFLOW_EXPERIMENT_NAME", help="MLflow experiment. Created if it does not exist.")
    ] = "normlab",
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Include the weights of the best checkpoints.")
    ] = False,
    follow: Follow = False,
) -> None:
    """Export each job as an MLflow run. A second export updates the same runs."""
    from service.export.mlflow import MLflowSink

    if not tracking_uri:
        raise Invalid("give --tracking-uri, as http://127.0.0.1:5000, or set MLFLOW_TRACKING_URI")
    uri = tracking_uri
    try:
        urlsplit(uri)
    except ValueError as error:
        raise Invalid(f"--tracking-uri is {uri!r} ({error}): give one like http://127.0.0.1:5000") from error
    filters = _filters(jobs, experiment, label)
    with connect(context, retry_s=RETRY_S[follow]) as client:
        selection = _selection(client, jobs, filters)
        _run(client, selection, lambda: MLflowSink(client, uri, experiment_name, checkpoints=checkpoints), follow)


def _filters(jobs: list[str] | None, experiment: str | None, labels: list[str] | None) -> Json:
    if jobs and (experiment or labels):
        raise Invalid("give ids of jobs, or --experiment and --label, not both")
    for entry in labels or ():
        if "=" not in entry:
            raise Invalid(f"--label is {entry!r}: give it as KEY=VALUE")
    filters = {"experiment": experiment, "label": [entry.replace("=", ":", 1) for entry in labels or ()]}
    return {name: value for name, value in filters.items() if value}


def _selection(client: Client, jobs: list[str] | None, filters: Json) -> Selection:
    if "experiment" in filters:
        filters |= {"experiment": experiment_id(client, filters["experiment"])}
    return Selection(tuple(job_id(client, job) for job in jobs or ()), filters)


def _run(client: Client, selection: Selection, open_sink: Callable[[], Sink], follow: bool) -> None:
    counted: Counter[str] = Counter()

    def note(run: Run) -> None:
        counted[run.id] = len(run.points)
        announce(None, f"{run.id}  {len(run.points)} points  {run.job['status']}  {run.name}", stderr=True)

    try:
        export(client, selection, open_sink(), follow=follow, on_update=note)
    except ExportError as error:
        raise Failed(str(error)) from error
    except KeyboardInterrupt:
        complain("stopped; the same command continues from here")
        raise typer.Exit(Exit.INTERRUPTED) from None
    plural = "" if len(counted) == 1 else "s"
    announce(None, f"{len(counted)} job{plural}, {counted.total()} points")
