"""`normlab logs`: the log of a job."""

import sys
from datetime import datetime
from typing import Annotated

import typer
from rich.text import Text

from service.cli.exits import Invalid
from service.cli.ids import JobId, job_id
from service.cli.output import console, print_json_line
from service.cli.session import AsJson, Json, connect

LEVELS = ("debug", "info", "warning", "error")


def read(
    context: typer.Context,
    job: JobId,
    level: Annotated[str, typer.Option(help="Lowest level to print: debug, info, warning or error.")] = "info",
    search: Annotated[str | None, typer.Option(help="Only lines that contain this text.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the job ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the log of a job."""
    if level not in LEVELS:
        raise Invalid(f"--level is {level!r}: give one of {', '.join(LEVELS)}")
    levels = LEVELS[LEVELS.index(level) :]
    last = None
    with connect(context) as client:
        job = job_id(client, job)
        for line in client.logs(job, level=levels, search=search):
            _print(line, as_json)
            last = line["id"]
        if not follow:
            return
        for event in client.events(job, after=last):
            if event.type == "reset":
                print(
                    "normlab: the database of the service was replaced; the log follows from the start", file=sys.stderr
                )
            wanted = event.type == "log" and event.data["level"] in levels
            if wanted and (search or "").lower() in event.data["message"].lower():
                _print(event.data, as_json)


def _print(line: Json, as_json: bool) -> None:
    if as_json:
        print_json_line(line)
        return
    clock = datetime.fromisoformat(line["time"]).astimezone().strftime("%H:%M:%S")
    text = Text.assemble((clock, "dim"), f"  {line['level']:7}  ", line["message"])
    console().print(text, soft_wrap=True)
