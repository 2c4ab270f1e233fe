"""`python -m worker SPEC.json`: one training attempt with neither Ray nor the service.

Its events go to standard output as JSON lines, its checkpoints to `--output`. Ctrl-C pauses it: a checkpoint is taken
and the attempt ends; a second Ctrl-C cancels it. Exit codes: 0 succeeded, 1 failed (the last event says why), 2 the
command or the spec is not valid, 3 paused, 4 cancelled.
"""

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
from worker.events import CheckpointTaken, Event, Finished, Log, Outcome
from worker.metrics import evaluation_error
from worker.spec import Checkpointing, TrainingSpec
from worker.training.failures import explain
from worker.training.loop import Request, train

EXIT_CODES: dict[Outcome, int] = {"succeeded": 0, "failed": 1, "paused": 3, "cancelled": 4}
INVALID = 2


class Events:
    """Numbers the events and prints each as a line of JSON."""

    def __init__(self) -> None:
        self.seq = 0

    def report(self, event: Event) -> None:
        """Prints `event`."""
        self.seq += 1
        print(event.model_copy(update={"seq": self.seq}).model_dump_json(), flush=True)


class CheckpointFolder:
    """Checkpoints as `step-N` folders; keeps the best and the last ones of this attempt."""

    def __init__(self, folder: Path, keep: Checkpointing) -> None:
        self.folder, self.keep_last = folder, keep.keep_last
        self.taken: list[CheckpointTaken] = []

    def save(self, event: CheckpointTaken, checkpoint: Checkpoint) -> None:
        """Writes `checkpoint` and removes those that it makes superfluous."""
        write_checkpoint(checkpoint, self._path(event))
        self.taken.append(event)
        best = min(self.taken, key=_error)
        for old in [old for old in self.taken[: -self.keep_last] if old is not best]:
            shutil.rmtree(self._path(old))
            self.taken.remove(old)

    def _path(self, event: CheckpointTaken) -> Path:
        return self.folder / f"step-{event.step:08d}"


class Interrupts:
    """Within it the first Ctrl-C asks for a pause, the second for the end."""

    def __enter__(self) -> Self:
        self.count = 0
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def control(self) -> Request | None:
        """What is asked of the training."""
        return None if not self.count else "pause" if self.count == 1 else "cancel"

    def _interrupt(self, *_: object) -> None:
        self.count += 1


app = typer.Typer(add_completion=False)


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="the training spec, a JSON file", metavar="SPEC.json")],
    data_dir: Annotated[
        Path, typer.Option(help="where CIFAR-10 is, or is downloaded to", envvar="NORMLAB_DATA_DIR")
    ] = Path("~/.cache/normlab/data"),
    output: Annotated[Path | None, typer.Option(help="folder for the checkpoints; without it none are kept")] = None,
    resume: Annotated[Path | None, typer.Option(help="a checkpoint, or an --output folder: its latest one")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; equal numbers give equal bits")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda where there is one")] = None,
) -> None:
    """Train one attempt; print its events as JSON lines."""
    try:
        training = TrainingSpec.model_validate_json(spec.read_bytes())
        checkpoint = read_checkpoint(latest(resume)) if resume else None
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except ValidationError as error:
        for problem in error.errors():
            print(f"{spec}: {'.'.join(map(str, problem['loc'])) or 'spec'}: {problem['msg']}", file=sys.stderr)
        raise typer.Exit(INVALID) from error
    except (OSError, CheckpointError, RuntimeError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(INVALID) from error
    if training.num_workers > 1:
        sentence = f"num_workers is {training.num_workers}, and this trains on one worker: submit the job, or give 1"
        print(f"{spec}: {sentence}", file=sys.stderr)
        raise typer.Exit(INVALID)
    if threads:
        torch.set_num_threads(threads)

    events = Events()
    folder = CheckpointFolder(output, training.checkpoint) if output else None

    def save(event: CheckpointTaken, checkpoint: Checkpoint) -> None:
        if folder:
            folder.save(event, checkpoint)
        events.report(event)

    try:
        dataset = datasets.load(
            training.dataset.name, data_dir.expanduser(), lambda line: events.report(Log(message=line))
        )
    except DatasetError as error:
        finished = Finished(outcome="failed", failure=explain(error, None))
        events.report(finished)
    else:
        with Interrupts() as interrupts:
            finished = train(
                training,
                dataset,
                device=chosen,
                report=events.report,
                save=save,
                control=interrupts.control,
                resume=checkpoint,
            )
    raise typer.Exit(EXIT_CODES[finished.outcome])


def latest(folder: Path) -> Path:
    """`folder` itself if it is a checkpoint, else the one of the latest step in it."""
    return max(folder.glob("step-*"), default=folder)


def _error(event: CheckpointTaken) -> float:
    error = evaluation_error(event.metrics)
    return 1.0 if error is None else error


if __name__ == "__main__":
    app()
