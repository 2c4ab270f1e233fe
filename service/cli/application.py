"""The `normlab` command: its subcommands and its exit codes."""

import contextlib
import sys
from typing import Annotated

import typer

from service.cli import (
    checkpoints,
    compare,
    documents,
    evaluations,
    experiments,
    export,
    jobs,
    logs,
    machine,
    results,
    shares,
    storage,
    submission,
    watching,
    webhook,
)
from service.cli.exits import EXIT_CODES, Exit, exit_code_of
from service.cli.output import STANDARD_OUTPUT, complain, discard_pending, prepare_streams
from service.client.files import naming
from service.version import normlab_version

app = typer.Typer(
    name="normlab",
    help="Which normalization, at which batch size, and is the difference real?",
    epilog="Exit codes: " + ", ".join(f"{int(code)} {text}" for code, text in EXIT_CODES.items()) + ".",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(machine.up)
app.command()(submission.submit)
app.command("jobs")(jobs.find)
app.command()(jobs.show)
app.command()(watching.watch)
app.command("logs")(logs.read)
app.command()(jobs.edit)
app.command()(jobs.cancel)
app.command()(jobs.pause)
app.command()(jobs.resume)
app.command()(jobs.retry)
app.command()(jobs.extend)
app.command()(jobs.delete)
app.command("checkpoints")(checkpoints.find)
app.command()(checkpoints.download)
app.command()(evaluations.evaluate)
experiments.app.command()(documents.report)
experiments.app.command()(documents.figure)
experiments.app.command()(documents.bundle)
experiments.app.command("import")(documents.import_bundle)
experiments.app.command()(shares.share)
experiments.app.command()(shares.shares)
experiments.app.command()(shares.unshare)
app.add_typer(experiments.app, name="experiment")
app.command("results")(results.results)
app.command()(compare.compare)
app.add_typer(export.app, name="export")
app.add_typer(webhook.app, name="webhook")
app.command()(machine.cluster)
app.command()(storage.storage)
app.command()(machine.doctor)
app.command()(machine.demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(normlab_version())
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(help="URL of the service. Default: NORMLAB_URL, or the service that runs on this machine."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Which normalization, at which batch size, and is the difference real?"""
    context.obj = url


def main() -> None:
    """Run the command and exit with its code. An error that a user can cause is printed without a traceback."""
    prepare_streams()
    streams = sys.stdout, sys.stderr
    try:
        code = _run()
    finally:
        # typer replaces them once a pipe is closed.
        sys.stdout, sys.stderr = streams
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.flush()
            discard_pending(stream)
    sys.exit(code)


def _run() -> int:
    try:
        code = app(standalone_mode=False)
        with naming(STANDARD_OUTPUT):
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as ended:
        if isinstance(ended, SystemExit) and not isinstance(ended.__context__, BrokenPipeError):
            raise
        return Exit.PIPE
    except typer.Abort:
        return Exit.INTERRUPTED
    except Exception as error:
        known = exit_code_of(error)
        if known is None:
            raise
        complain(_text(error))
        return known
    return code if isinstance(code, int) else Exit.OK


def _text(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
