"""`normlab webhook deliveries`: what the webhook was told, and whether it has accepted it."""

from typing import Annotated

import typer
from rich.text import Text

from service.cli.folding import Grid
from service.cli.output import console, print_json
from service.cli.session import AsJson, connect
from service.cli.tables import age_s, duration

app = typer.Typer(help="The webhook, which is told the end of jobs.", no_args_is_help=True, rich_markup_mode=None)
STYLES = {"delivered": "green", "failed": "red", "pending": "yellow", "waiting": "cyan"}


@app.callback()
def webhook() -> None:
    """The webhook, which is told the end of each job and experiment."""


@app.command()
def deliveries(
    context: typer.Context,
    status: Annotated[list[str] | None, typer.Option(help="Only deliveries in this status. May be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of deliveries.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the deliveries of the last 30 days, newest first: tries, the last answer, and why the last try failed."""
    with connect(context) as client:
        found = list(client.deliveries(max_deliveries=limit, status=status))
    if as_json:
        print_json(found)
    elif found:
        table = Grid("ID", "EVENT", "OF", "STATUS", "TRIES", "ANSWER", "AGE", "ERROR", right=("TRIES", "ANSWER", "AGE"))
        for one in found:
            table.add_row(
                one["id"],
                one["event"],
                one["subject"],
                Text(one["status"], style=STYLES.get(one["status"], "")),
                str(one["tries"]),
                str(one["answer"] or "–"),
                duration(age_s(one["created_at"])),
                Text(one["error"] or ""),
            )
        console().print(table)
    else:
        console().print("No deliveries.", style="dim")
