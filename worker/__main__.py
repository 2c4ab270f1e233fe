"""`python -m worker SPEC.json`: one training attempt, without Ray and without the service.

Events are printed to standard output as JSON lines, checkpoints are written to `--output`. Ctrl-C pauses the attempt,
which takes a checkpoint and ends; a second Ctrl-C cancels it. Exit codes: 0 succeeded, 1 failed (the last event says
why), 2 invalid command or spec, 3 paused, 4 cancelled, 5 standard output cannot be written.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated, Self

import torch
import typer
from pydantic import ValidationError

from worker.checkpoints.checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from worker.data import datasets
from worker.data.datasets import DatasetError
from worker.events import CheckpointTaken, Event, Finished, Log, Outcome, StopRequest
from worker.metrics import selection_error
from worker.numerics.gpus import gpu_problem
from worker.spec import Checkpointing, TrainingSpec
from worker.training.failures import DeviceLost, failure_of
from worker.training.loop import train

EXIT_CODES: dict[Outcome, int] = {"succeeded": 0, "failed": 1, "paused": 3, "cancelled": 4}
INVALID = 2
UNWRITABLE = 5


class EventPrinter:
    """Numbers the events and prints each of them as a line of JSON."""

    def __init__(self) -> None:
        self.seq = 0

    def report(self, event: Event) -> None:
        """Print `event`, or end the command if standard output cannot be written."""
        self.seq += 1
        try:
            print(event.model_copy(update={"seq": self.seq}).model_dump_json(), flush=True)
        except OSError as error:
            # At exit Python writes what is still buffered, which would fail as well.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            print(f"standard output: {error.strerror}", file=sys.stderr)
            sys.exit(UNWRITABLE)


class CheckpointFolder:
    """A folder of checkpoints, each in a folder `step-N`; it keeps the best and the latest ones of this attempt."""

    def __init__(self, folder: Path, keep: Checkpointing) -> None:
        self.folder, self.keep_last = folder, keep.keep_last
        self.taken: list[CheckpointTaken] = []

    def save(self, event: CheckpointTaken, checkpoint: Checkpoint) -> None:
        """Write `checkpoint` and delete those that are no longer kept."""
        write_checkpoint(checkpoint, self._path(event))
        self.taken.append(event)
        best = min(self.taken, key=_error)
        for old in [old for old in self.taken[: -self.keep_last] if old is not best]:
            shutil.rmtree(self._path(old))
            self.taken.remove(old)

    def _path(self, event: CheckpointTaken) -> Path:
        return self.folder / f"step-{event.step:08d}"


class Interrupts:
    """Context in which the first Ctrl-C requests a pause and the second a cancellation."""

    def __enter__(self) -> Self:
        self.count = 0
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def control(self) -> StopRequest | None:
        """Return the request, if there is one."""
        return None if not self.count else "pause" if self.count == 1 else "cancel"

    def _interrupt(self, *_: object) -> None:
        self.count += 1


app = typer.Typer(add_completion=False)


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="The training spec, a JSON file.", metavar="SPEC.json")],
    data_dir: Annotated[
        Path, typer.Option(help="Folder of CIFAR-10, which is downloaded if missing.", envvar="NORMLAB_DATA_DIR")
    ] = Path("~/.cache/normlab/data"),
    output: Annotated[Path | None, typer.Option(help="Folder for checkpoints; default: none are kept.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to resume from, or a folder whose latest is used."),
    ] = None,
    initial: Annotated[
        Path | None, typer.Option(help="The checkpoint that init_from of the spec names, or a folder of them.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; results depend on their number.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda if available.")] = None,
) -> None:
    """Train one attempt and print its events as JSON lines."""
    try:
        training = TrainingSpec.model_validate_json(spec.read_bytes())
        checkpoint = read_checkpoint(latest(resume)) if resume else None
        first = read_checkpoint(latest(initial)) if initial else None
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except ValidationError as error:
        for problem in error.errors():
            print(f"{spec}: {'.'.join(map(str, problem['loc'])) or 'spec'}: {problem['msg']}", file=sys.stderr)
        raise typer.Exit(INVALID) from error
    except (OSError, CheckpointError, RuntimeError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(INVALID) from error
    if chosen.type == "cuda" and (unusable := gpu_problem()):
        print(f"--device is {device}, but {unusable}", file=sys.stderr)
        raise typer.Exit(INVALID)
    if training.num_workers > 1:
        sentence = f"num_workers is {training.num_workers}, but this command trains on one: submit the job, or give 1"
        print(f"{spec}: {sentence}", file=sys.stderr)
        raise typer.Exit(INVALID)
    try:
        images = data_dir.expanduser()
    except RuntimeError as error:
        print(f"--data-dir is {data_dir}, and there is no home directory: give one that exists", file=sys.stderr)
        raise typer.Exit(INVALID) from error
    if threads:
        torch.set_num_threads(threads)

    printer = EventPrinter()
    folder = CheckpointFolder(output, training.checkpoint) if output else None

    def save(event: CheckpointTaken, checkpoint: Checkpoint) -> None:
        if folder:
            folder.save(event, checkpoint)
        printer.report(event)

    try:
        dataset = datasets.load(training.dataset.name, images, lambda line: printer.report(Log(message=line)))
    except DatasetError as error:
        finished = Finished(outcome="failed", failure=failure_of(error, None))
        printer.report(finished)
    else:
        with Interrupts() as interrupts:
            try:
                finished = train(
                    training,
                    dataset,
                    device=chosen,
                    report=printer.report,
                    save=save,
                    control=interrupts.control,
                    resume=checkpoint,
                    initial=first,
                )
            except DeviceLost as error:
                finished = Finished(outcome="failed", failure=failure_of(error, None))
                printer.report(finished)
    raise typer.Exit(EXIT_CODES[finished.outcome])


def latest(folder: Path) -> Path:
    """Return the checkpoint of the latest step in `folder`, or `folder` itself if it contains no checkpoints."""
    return max(folder.glob("step-*"), default=folder)


def _error(event: CheckpointTaken) -> float:
    error = selection_error(event.metrics)
    return 1.0 if error is None else error


if __name__ == "__main__":
    app()
