"""The client that every command uses, and their common arguments."""

import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from service.cli.exits import Invalid
from service.client import Client

Json = dict[str, Any]
LAST = "last"
JobId = Annotated[str, typer.Argument(help="Id of the job; `last`: the newest one.", show_default=False)]
JobIds = Annotated[list[str], typer.Argument(help="Ids of the jobs; `last`: the newest one.", show_default=False)]
ExperimentId = Annotated[str, typer.Argument(help="Id of the experiment; `last`: the newest one.", show_default=False)]
ExperimentIds = Annotated[
    list[str], typer.Argument(help="Ids of the experiments; `last`: the newest one.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def job_id(client: Client, given: str) -> str:
    """Return the id of the job that `given` names: `last` is the newest one."""
    return _newest(client.jobs(max_jobs=1), "job") if given == LAST else given


def experiment_id(client: Client, given: str) -> str:
    """Return the id of the experiment that `given` names: `last` is the newest one."""
    return _newest(client.experiments.list(max_experiments=1), "experiment") if given == LAST else given


def _newest(found: Iterator[Json], noun: str) -> str:
    newest = next(found, None)
    if newest is None:
        raise Invalid(f"there is no {noun} yet, so `{LAST}` names none")
    return str(newest["id"])


def label_of(text: str) -> tuple[str, str]:
    """Return key and value of a label that is given as KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise Invalid(f"--label is {text!r}: give it as KEY=VALUE")
    return key, value


def connect(context: typer.Context, retry_s: float = 1) -> Client:
    """Connect to the service that `--url`, NORMLAB_URL or the supervisor of this machine names.

    `retry_s` is the time in seconds for which requests to an unreachable service are repeated.
    """
    from service.local.home import address_of_this_machine

    try:
        return Client(context.obj or os.environ.get("NORMLAB_URL") or address_of_this_machine(), retry_s=retry_s)
    except ValueError as error:
        raise Invalid(str(error)) from error
