"""`normlab checkpoints` and `download`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import DownloadColumn, TransferSpeedColumn

from service.cli.exits import Invalid
from service.cli.folding import FoldingProgress, Grid, Value, bar
from service.cli.ids import CHECKPOINT, JobId, argument, checkpoint_reference, job_id
from service.cli.output import Output, announce, console, is_standard_output, print_json
from service.cli.session import AsJson, Json, connect
from service.cli.tables import per_cent
from worker.metrics import evaluation_error


def find(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """List the checkpoints of a job, newest first."""
    with connect(context) as client:
        found = list(client.checkpoints(job_id(client, job)))
    if as_json:
        print_json(found)
        return
    table = Grid("ID", "EPOCH", "STEP", "ERROR", "SIZE", "", right=("EPOCH", "STEP", "ERROR", "SIZE"))
    for checkpoint in found:
        size = sum(file["size"] for file in checkpoint["files"])
        table.add_row(
            checkpoint["id"],
            str(checkpoint["epoch"]),
            str(checkpoint["step"]),
            _error_of(checkpoint),
            f"{size / 1e6:.1f} MB",
            "best" if checkpoint["best"] else "",
        )
    if found:
        console().print(table)
    else:
        console().print("No checkpoints yet.", style="dim")


def download(
    context: typer.Context,
    checkpoint: Annotated[str, argument("job", CHECKPOINT)],
    output: Annotated[Path, typer.Option("--output", "-o", help="File or folder to write to.")] = Path(),
    file: Annotated[str, typer.Option(help="Name of a file of the checkpoint.")] = "model.safetensors",
    as_json: AsJson = False,
) -> None:
    """Download a file of a checkpoint, by default its weights. An interrupted download resumes where it stopped."""
    with connect(context) as client:
        found = client.checkpoint(checkpoint_reference(client, checkpoint))
        if not output.is_dir() and not output.parent.is_dir():
            raise Invalid(f"--output is {output}: the folder {output.parent} does not exist")
        try:
            with _bar(console(stderr=True), file) as on_progress:
                path = client.download(found["id"], file, output, on_progress)
        except ValueError as error:
            raise Invalid(str(error)) from error
    line = f"{path}  epoch {found['epoch']}, step {found['step']}, error {_error_of(found)}"
    announce({"path": str(path), "checkpoint": found}, line, as_json=as_json, stderr=is_standard_output(path))


def _error_of(checkpoint: Json) -> str:
    return per_cent(evaluation_error(checkpoint["metrics"]))


@contextlib.contextmanager
def _bar(out: Output, file: str) -> Iterator[Callable[[int, int], object]]:
    if not out.is_terminal:
        yield lambda done, size: None
        return
    columns = (Value(lambda task: task.description), bar(), DownloadColumn(), TransferSpeedColumn())
    with FoldingProgress(*columns, count=lambda tasks: "", console=out, transient=True) as progress:
        task = progress.add_task(file, total=None)
        yield lambda done, size: progress.update(task, completed=done, total=size)
