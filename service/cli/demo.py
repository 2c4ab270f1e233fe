"""`normlab demo`: BatchNorm and GroupNorm at batch sizes 2 and 32, three seeds, in a few minutes on two cores."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from service.cli.exits import Exit, Failed
from service.cli.grids import results_grid
from service.cli.output import Output, command_name, console, say
from service.cli.watching import Bars, Lines, to_the_end
from service.cli.welcome import introduction, writing_client
from service.client import Client
from service.local.home import address_of
from service.local.processes import child_environment
from service.local.supervisor import Supervisor, can_listen
from service.settings import Settings

Json = dict[str, Any]

NORMALIZATIONS: Sequence[Json] = ({"type": "batch"}, {"type": "group", "num_groups": 8})
BATCH_SIZES = (2, 32)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Size:
    """The size of the training runs. The defaults take five to six minutes on two cores."""

    train_limit: int = 1000
    test_limit: int = 1000
    epochs: int = 4


def run(settings: Settings, *, leave: bool = False, size: Size | None = None) -> None:
    """Train, print the table, and on a terminal keep serving until Ctrl-C.

    Uses the service of this HOME if one runs.

    Args:
        settings: Those of the service to start, or of the one that runs.
        leave: Stop the service after the table, also on a terminal.
        size: The size of the training runs.

    Raises:
        CannotStart: The service cannot be started.
        Failed: A job did not succeed.
        typer.Exit: With status 130, after Ctrl-C.
    """
    out = console()
    size = size or Size()
    try:
        with _interruptible(), contextlib.ExitStack() as stack:
            url = address_of(settings.home)
            supervisor = None
            if url is None:
                if "port" not in settings.model_fields_set and not can_listen(settings.host, settings.port):
                    settings = settings.model_copy(update={"port": 0})
                say("Starting the service ...")
                supervisor = stack.enter_context(Supervisor(settings, say))
                url = supervisor.url
            dataset = "cifar10" if _fetch(settings) else "synthetic"
            if supervisor is not None:
                supervisor.wait_ready()
                say(introduction(supervisor, settings))
            with writing_client(url, settings) as client:
                example = client.experiments.import_example()
                say(f"A finished study: {url}/experiments/{example['id']}")
                experiment = _train(client, request(dataset, size), out)
                out.print()
                out.print(results_grid(client.experiments.results(experiment)))
            out.print()
            say(footnote(dataset, size))
            stays = supervisor is None or (out.is_terminal and not leave)
            say(f"Dashboard: {url}/experiments/{experiment}")
            start = "" if stays else f"`{command_name()} up`, then "
            say(f"Next: {start}`{command_name()} experiment submit paper-batch-size --budget 0.01 --watch`")
            if supervisor is not None and stays:
                say("Ctrl-C ends it.")
                supervisor.wait()
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None


def request(dataset: str, size: Size) -> Json:
    """Return the experiment: two normalizations by two batch sizes, the longest jobs first."""
    return {
        "name": "BatchNorm and GroupNorm" + ("" if dataset == "cifar10" else f", {dataset} images"),
        "base": {
            "labels": {"study": "demo"},
            "model": "resnet20",
            "epochs": size.epochs,
            "schedule": {"type": "cosine"},
            "dataset": {"name": dataset, "train_limit": size.train_limit, "test_limit": size.test_limit},
        },
        "grid": {"batch_size": list(BATCH_SIZES), "seed": list(SEEDS), "normalization": list(NORMALIZATIONS)},
    }


def footnote(dataset: str, size: Size) -> str:
    """Return the text below the table: the settings of the training, and what the results cannot show."""
    images = f"{size.train_limit:,} training and {size.test_limit:,} test images"
    if dataset == "cifar10":
        images += " of CIFAR-10"
    else:
        images += " of the synthetic dataset, which is generated: the results say nothing about CIFAR-10"
    return (
        f"resnet20, {size.epochs} epochs on {images}, learning rate 0.1 × batch size / 32.\n"
        "On so few images the errors are high."
    )


def _fetch(settings: Settings) -> bool:
    """Download CIFAR-10 into the data folder unless it is there. Prints why and returns False if that fails."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "worker.data.download", str(settings.data_dir)],
        env=child_environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as fetching:
        assert fetching.stdout is not None
        assert fetching.stderr is not None
        for line in fetching.stdout:
            say(line.rstrip())
        reason = fetching.stderr.read().strip().splitlines()
    if fetching.returncode == 0:
        return True
    say(f"No CIFAR-10: {reason[-1] if reason else 'it cannot be loaded'}")
    say("Training on the synthetic dataset instead. Its results say nothing about CIFAR-10.")
    return False


def _train(client: Client, wanted: Json, out: Output) -> str:
    """Submit the experiment, show its jobs until they end, and return its id. Cancels the experiment after Ctrl-C."""
    experiment: str = client.experiments.submit(wanted)["id"]
    try:
        jobs = [job["id"] for job in client.jobs(experiment=experiment, sort="created_at")]
        ended = to_the_end(client, jobs, Bars(out) if out.is_terminal else Lines(out))
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):
            client.experiments.cancel(experiment)
        raise
    for one in ended:
        if one.status != "succeeded":
            raise Failed(f"{one.title} {one.status}: {one.failure or 'stopped by another client'}")
    return experiment


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C, so that everything that was started is stopped."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
