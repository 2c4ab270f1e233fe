"""What every command shares: the client of the service, and where output goes."""

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
    """The client of the service that `--url`, NORMLAB_URL or the supervisor of this machine names.

    `retry_s`: for how long a service that is away is waited for.
    """
    from service.local.home import address_of_this_machine

    try:
        return Client(context.obj or os.environ.get("NORMLAB_URL") or address_of_this_machine(), retry_s=retry_s)
    except ValueError as error:
        raise Invalid(str(error)) from error


def console() -> Console:
    """Standard output: as wide as the terminal; in a pipe as wide as it takes, and without colours."""
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE, highlight=False, soft_wrap=False)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: Any) -> None:
    """One JSON document on one line, at once."""
    print(json.dumps(document, ensure_ascii=False), flush=True)
