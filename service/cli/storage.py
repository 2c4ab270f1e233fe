"""`normlab storage`: what the checkpoints take."""

from typing import Annotated

import typer
from rich.text import Text

from service.cli.folding import Facts, Grid
from service.cli.ids import experiment_id, option
from service.cli.output import console, print_json
from service.cli.session import AsJson, connect
from service.cli.tables import size_text


def storage(
    context: typer.Context,
    experiment: Annotated[str | None, option("experiment", help="Only jobs of this experiment.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Maximum number of experiments, and of jobs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the disk space that checkpoints take, by experiment and by job, largest first."""
    with connect(context) as client:
        found = client.storage(experiment and experiment_id(client, experiment), limit=limit)
    if as_json:
        print_json(found)
        return
    out = console()
    facts = Facts()
    facts.add_row("checkpoints", f"{found['checkpoints']}, {size_text(found['bytes'])}")
    if found["free_bytes"] is not None:
        facts.add_row("free", size_text(found["free_bytes"]))
    out.print(facts)
    if found["experiments"] and experiment is None:
        grid = Grid("EXPERIMENT", "JOBS", "CHECKPOINTS", "SIZE", "TITLE", right=("JOBS", "CHECKPOINTS", "SIZE"))
        for one in found["experiments"]:
            title = "jobs without an experiment" if one["id"] is None else one["title"]
            size = size_text(one["bytes"])
            grid.add_row(one["id"] or "–", str(one["jobs"]), str(one["checkpoints"]), size, Text(title))
        out.print()
        out.print(grid)
    if found["jobs"]:
        grid = Grid("JOB", "STATUS", "CHECKPOINTS", "SIZE", "TITLE", right=("CHECKPOINTS", "SIZE"))
        for one in found["jobs"]:
            size = size_text(one["bytes"])
            grid.add_row(one["id"], one["status"], str(one["checkpoints"]), size, Text(one["title"]))
        out.print()
        out.print(grid)
