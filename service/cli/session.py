"""The client that every command uses, and their common options."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from service.cli.exits import Invalid
from service.cli.flags import naming
from service.client import Client

Json = dict[str, Any]
Label = Annotated[list[str] | None, typer.Option(help="Label to set, as KEY=VALUE. May be repeated.")]
RemoveLabel = Annotated[list[str] | None, typer.Option(help="Key of a label to remove. May be repeated.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def label_of(text: str) -> tuple[str, str]:
    """Return key and value of a label that is given as KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise Invalid(f"--label is {text!r}: give it as KEY=VALUE")
    return key, value


def labels_of(label: Sequence[str] | None, remove_label: Sequence[str] | None) -> dict[str, str | None]:
    """Return the change of labels that `--label` and `--remove-label` describe: None removes one."""
    return dict.fromkeys(remove_label or ()) | dict(map(label_of, label or ()))


@contextmanager
def connect(context: typer.Context, retry_s: float = 1, fields: Mapping[str, str] | None = None) -> Iterator[Client]:
    """Connect to the service that `--url`, NORMLAB_URL or the supervisor of this machine names.

    Args:
        context: The command, whose flags the errors of the service name.
        retry_s: The time in seconds for which requests to an unreachable service are repeated.
        fields: The JSON pointers that the options of the command set, where they differ from the names of the options.
    """
    with open_client(context.obj, retry_s=retry_s) as client, naming(context, fields):
        yield client


def open_client(address: str | None, *, timeout_s: float = 30, retry_s: float = 0) -> Client:
    """Connect to the service at an address; by default, the one that NORMLAB_URL or this machine's supervisor names."""
    from service.local.home import address_of_this_machine

    try:
        address = address or os.environ.get("NORMLAB_URL") or address_of_this_machine()
        return Client(address, timeout_s=timeout_s, retry_s=retry_s)
    except ValueError as error:
        raise Invalid(str(error)) from error
