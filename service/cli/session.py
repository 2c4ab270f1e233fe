"""The client that every command uses, and their common arguments."""

import os
from typing import Annotated, Any

import typer

from service.cli.exits import Invalid
from service.client import Client

Json = dict[str, Any]
JobId = Annotated[str, typer.Argument(help="Id of the job.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def connect(context: typer.Context, retry_s: float = 1) -> Client:
    """Connect to the service that `--url`, NORMLAB_URL or the supervisor of this machine names.

    `retry_s` is the time in seconds for which requests to an unreachable service are repeated.
    """
    from service.local.home import address_of_this_machine

    try:
        return Client(context.obj or os.environ.get("NORMLAB_URL") or address_of_this_machine(), retry_s=retry_s)
    except ValueError as error:
        raise Invalid(str(error)) from error
