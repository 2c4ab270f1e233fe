"""`normlab experiment`: submit, watch, pause and extend grids of jobs."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from service.cli.exits import Exit, Invalid
from service.cli.folding import Screenful
from service.cli.grids import (
    counts_text,
    experiment_table,
    experiments_table,
    preview_table,
    progress_text,
    results_grid,
)
from service.cli.ids import ExperimentId, ExperimentIds, experiment_id, whole_id
from service.cli.output import Output, announce, command_name, complain, console, print_json, print_json_line
from service.cli.requests import read_yaml
from service.cli.session import AsJson, Json, Label, RemoveLabel, connect, labels_of
from service.client import Client
from service.client.experiments import Experiments
from service.experiments.request import MAX_JOBS
from service.experiments.status import ENDED

app = typer.Typer(
    help="Submit, watch, pause and extend experiments: grids of jobs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

POLL_INTERVAL_S = 2.0
"""Seconds between two requests for a watched experiment."""


@app.command()
def submit(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(help="A YAML or JSON file, - for standard input, or the name of a built-in experiment.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the jobs, the warnings and the cost without submitting anything.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the experiment until it ends.")] = False,
    budget: Annotated[
        float | None, typer.Option(help="Fraction of the cost to spend: fewer epochs and images.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the experiment.")] = None,
    priority: Annotated[int | None, typer.Option(help="Jobs of a higher priority start first.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=MAX_JOBS, help="Number of seeds of a cell, from 0 on.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Submissions with the same key create one experiment.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit an experiment.

    Example: normlab experiment submit paper-batch-size --budget 0.05 --watch
    """
    request = _read(what)
    given = {"budget": budget, "name": name, "priority": priority}
    request |= {field: value for field, value in given.items() if value is not None}
    if seeds is not None:
        request["grid"] = {**_grid_of(request), "seed": list(range(seeds))}
        request.pop("seeds", None)
    with connect(context, fields={"seeds": "/grid/seed"}) as client:
        if dry_run:
            preview = client.experiments.dry_run(request)
            print_json(preview) if as_json else console().print(preview_table(preview))
            return
        experiment = client.experiments.submit(request, idempotency_key)
        if not (as_json and watch):
            command = f"{command_name()} experiment watch {experiment['id']}"
            hint = [] if watch else [Text(f"{command} follows it.", style="dim")]
            line = f"{experiment['id']}  {experiment['jobs']} jobs  {experiment['title']}"
            announce(experiment, line, *hint, as_json=as_json)
        if watch:
            follow(client, experiment["id"], as_json=as_json)


@app.command("list")
def find(
    context: typer.Context,
    search: Annotated[str | None, typer.Option(help="Only experiments whose name contains this text.")] = None,
    submitted_by: Annotated[
        list[str] | None, typer.Option(help="Only those submitted with a token of this name. May be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of experiments.")] = 20,
    builtin: Annotated[bool, typer.Option("--builtin", help="List the built-in experiments instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List experiments, newest first."""
    with connect(context) as client:
        found = (
            client.experiments.builtin()
            if builtin
            else list(client.experiments.list(max_experiments=limit, search=search, submitted_by=submitted_by))
        )
    out = console()
    if as_json:
        print_json(found)
    elif builtin:
        for study in found:
            out.print(f"{study['name']:<18}{study['jobs']:>4} jobs  {study['description']}", soft_wrap=True)
    elif found:
        out.print(experiments_table(found))
    else:
        out.print("No experiments.", style="dim")


@app.command()
def show(context: typer.Context, experiment: ExperimentId, as_json: AsJson = False) -> None:
    """Show an experiment: its grid, its progress and its warnings."""
    with connect(context) as client:
        found = client.experiments.get(experiment_id(client, experiment))
    if as_json:
        print_json(found)
    else:
        console().print(experiment_table(found))


@app.command()
def watch(context: typer.Context, experiment: ExperimentId, as_json: AsJson = False) -> None:
    """Follow an experiment to its end. Ctrl-C stops watching, not the jobs.

    Exit with 1 unless all jobs succeeded; those of a search may fail if it has found values for every row.
    """
    with connect(context) as client:
        follow(client, experiment_id(client, experiment), as_json=as_json)


@app.command()
def cancel(context: typer.Context, experiments: ExperimentIds, as_json: AsJson = False) -> None:
    """Stop all jobs of the experiments for good."""
    _each(context, experiments, Experiments.cancel, as_json)


@app.command()
def pause(context: typer.Context, experiments: ExperimentIds, as_json: AsJson = False) -> None:
    """Save a checkpoint of every job and stop until the experiments are resumed."""
    _each(context, experiments, Experiments.pause, as_json)


@app.command()
def resume(context: typer.Context, experiments: ExperimentIds, as_json: AsJson = False) -> None:
    """Queue all paused jobs again, from their checkpoints."""
    _each(context, experiments, Experiments.resume, as_json)


@app.command()
def extend(
    context: typer.Context,
    experiment: ExperimentId,
    seed: Annotated[
        list[int], typer.Option(min=0, help="Seed to add to every cell. May be repeated.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Add seeds to an experiment, even while it runs."""
    _each(context, [experiment], lambda on, id_: on.change(id_, grid={"seed": seed}), as_json)


@app.command()
def edit(
    context: typer.Context,
    experiment: ExperimentId,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    label: Label = None,
    remove_label: RemoveLabel = None,
    priority: Annotated[int | None, typer.Option(help="New priority of all its jobs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rename an experiment, or change the labels or the priority of all its jobs.

    Example: normlab experiment edit last --name "batch sizes, warm start" --label study=paper
    """
    labels = labels_of(label, remove_label)
    if name is None and priority is None and not labels:
        raise Invalid("nothing to change: give --name, --label, --remove-label or --priority")
    change = partial(Experiments.change, name=name, priority=priority, labels=labels or None)
    _each(context, [experiment], change, as_json)


@app.command()
def delete(context: typer.Context, experiments: ExperimentIds) -> None:
    """Delete experiments that have ended, with their jobs, metrics and checkpoints."""
    with connect(context) as client:
        for experiment in experiments:
            experiment = whole_id(client, "experiment", experiment)
            client.experiments.delete(experiment)
            announce(None, f"{experiment}  deleted")


def follow(client: Client, experiment: str, *, as_json: bool = False) -> None:
    """Show the results of an experiment while its jobs end.

    Raises:
        typer.Exit: With 1 unless every job succeeded and every search found values, with 130 after Ctrl-C.
    """
    out = console()
    try:
        if as_json or not out.is_terminal:
            found = _lines(client, experiment, out, as_json=as_json)
        else:
            found = _grid(client, experiment, out)
    except KeyboardInterrupt:
        complain(
            f"stopped watching; the jobs keep running. `{command_name()} experiment watch {experiment}` watches them "
            f"again, `{command_name()} experiment cancel {experiment}` stops them"
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    if not _succeeded(client, found):
        raise typer.Exit(Exit.FAILED)


def _succeeded(client: Client, experiment: Json) -> bool:
    """Return whether every job of an experiment has succeeded. Jobs of a search may fail, if it has found something."""
    tuning = experiment["tuning"]
    if tuning is None:
        return not set(experiment["counts"]) - {"succeeded"}
    results = client.experiments.results(experiment["id"])
    statuses = {status for cell in (*results["cells"], *results["beside"]) for status in cell["counts"]}
    return statuses == {"succeeded"} and all(choice["values"] is not None for choice in tuning["choices"])


def _grid(client: Client, experiment: str, out: Output) -> Json:
    with Live(console=out, auto_refresh=False) as live:
        while True:
            found = client.experiments.get(experiment)
            standing = Text(f"{found['status']}, {progress_text(found)}: ").append_text(counts_text(found["counts"]))
            content = Group(standing, Text(), results_grid(client.experiments.results(experiment)))
            if found["status"] in ENDED:
                live.update(content, refresh=True)
                return found
            live.update(Screenful(content, f"`{command_name()} results {experiment}` prints all."), refresh=True)
            time.sleep(POLL_INTERVAL_S)


def _lines(client: Client, experiment: str, out: Output, *, as_json: bool) -> Json:
    """Print a line for each change, and the results at the end."""
    printed: Any = None
    while True:
        found = client.experiments.get(experiment)
        if (now := (found["status"], found["counts"])) != printed:
            printed = now
            if as_json:
                print_json_line({name: found[name] for name in ("id", "status", "counts", "progress", "eta_s")})
            else:
                standing = Text(f"{found['status']}, {progress_text(found)}: ")
                out.print(standing.append_text(counts_text(found["counts"])), soft_wrap=True)
        if found["status"] in ENDED:
            if not as_json:
                out.print(results_grid(client.experiments.results(experiment)))
            return found
        time.sleep(POLL_INTERVAL_S)


def _each(
    context: typer.Context, experiments: list[str], verb: Callable[[Experiments, str], Json], as_json: bool
) -> None:
    with connect(context, fields={"seed": "/grid/seed", "label": "/labels", "remove_label": "/labels"}) as client:
        for experiment in experiments:
            answer = verb(client.experiments, experiment_id(client, experiment))
            line = Text(f"{answer['id']}  {answer['status']}  ").append_text(counts_text(answer["counts"]))
            announce(answer, line, as_json=as_json)


def _read(what: str) -> Json:
    """Read the request from a file, or make one from the name of a built-in experiment."""
    path = Path(what)
    if what != "-" and not path.suffix and not os.path.exists(what):
        return {"builtin": what}
    return read_yaml(what, "an experiment with name, base and grid")


def _grid_of(request: Json) -> Json:
    grid = request.get("grid", {})
    if not isinstance(grid, dict):
        raise Invalid(f"grid is {grid!r} in the file: --seeds needs an object there")
    return grid
