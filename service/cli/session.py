"""The client and the output that every command uses."""

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from service.cli.exits import Invalid
from service.client import Client

Json = dict[str, Any]
JobId = Annotated[str, typer.Argument(help="Id of the job.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

WIDTH_OF_A_PIPE = 200


def connect(context: typer.Context, retry_s: float = 1) -> Client:
    """Connect to the service that `--url`, NORMLAB_URL or the supervisor of this machine names.

    `retry_s` is the time in seconds for which requests to an unreachable service are repeated.
    """
    from service.local.home import address_of_this_machine

    try:
        return Client(context.obj or os.environ.get("NORMLAB_URL") or address_of_this_machine(), retry_s=retry_s)
    except ValueError as error:
        raise Invalid(str(error)) from error


def console() -> Console:
    """Make a console of standard output: as wide as the terminal; in a pipe, wide enough for any table."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE, highlight=False, soft_wrap=False)


def print_json(document: Any) -> None:
    """Print a JSON document on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: Any) -> None:
    """Print a JSON document on one line and flush it."""
    print(json.dumps(document, ensure_ascii=False), flush=True)
