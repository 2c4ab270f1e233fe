"""`normlab up`, `cluster`, `doctor` and `demo`: the service and the machine that it runs on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from service.cli.exits import Exit, Failed, Invalid
from service.cli.folding import Facts
from service.cli.output import console, print_json, say
from service.cli.session import AsJson, connect

if TYPE_CHECKING:
    from service.local.supervisor import Supervisor
    from service.settings import Settings


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: NORMLAB_HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 chooses a free port. Default: 8000.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of the database and the checkpoints.")] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from service.cli.welcome import first_steps, introduction
    from service.local.supervisor import CannotStart, serve

    def greet(supervisor: "Supervisor", settings: "Settings") -> None:
        say(introduction(supervisor, settings))
        if steps := first_steps(supervisor, settings):
            say(steps)

    try:
        serve(_settings(host=host, port=port, home=home), say, greet)
    except CannotStart as error:
        raise Failed(str(error)) from error


def _settings(**flags: object) -> "Settings":
    from service.settings import InvalidSettings, read_settings

    try:
        return read_settings(**{name: value for name, value in flags.items() if value is not None})
    except InvalidSettings as error:
        raise Invalid(str(error)) from error


def cluster(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the cluster: Ray, its nodes, the workers and the queue."""
    with connect(context) as client:
        found = client.cluster()
    if as_json:
        print_json(found)
        return
    out = console()
    slots, queue, ray = found["slots"], found["queue"], found["ray"]
    dispatcher = "runs" if found["dispatcher"]["alive"] else "does not run; its last report follows"
    table = Facts()
    table.add_row("dispatcher", dispatcher)
    table.add_row("ray", f"{ray['status']}" + (f" at {ray['address']}" if ray.get("address") else ""))
    table.add_row("slots", f"{slots['total']}: {slots['busy']} busy, {slots['free']} free")
    if problem := slots.get("problem"):
        table.add_row("", problem)
    table.add_row("queue", f"{queue['queued']} waiting")
    for node in found["nodes"]:
        state = "" if node["alive"] else ", gone"
        table.add_row("node", f"{node['address'] or node['id']}, {node['cpus']:g} CPUs, {node['gpus']:g} GPUs{state}")
    for worker in found["workers"]:
        job = f" with {worker['job']}" if worker["job"] else ""
        table.add_row("worker", Text(f"{worker['id']}, {worker['device'] or 'no device yet'}, {worker['state']}{job}"))
    out.print(table)


def doctor(
    home: Annotated[Path | None, typer.Option(help="Folder of the database and the checkpoints.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check what this machine offers for training. Exit with 1 if no job can be trained."""
    from service.local.doctor import examine

    findings = examine(_settings(home=home))
    if as_json:
        print_json({"can_train": all(finding.ok for finding in findings), "findings": [f.__dict__ for f in findings]})
    else:
        table = Facts()
        marks = {True: Text("ok", style="green"), False: Text("missing", style="red")}
        for finding in findings:
            mark = Text("note", style="yellow") if finding.ok and finding.note else marks[finding.ok]
            table.add_row(finding.name, mark, Text(finding.detail))
        console().print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(Exit.FAILED)


def demo(
    leave: Annotated[bool, typer.Option("--exit", help="Exit after the table, even on a terminal.")] = False,
    home: Annotated[Path | None, typer.Option(help="Folder of the database and the checkpoints.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 chooses a free port. Default: 8000.")] = None,
) -> None:
    """Train BatchNorm and GroupNorm at batch sizes 2 and 32 for a few minutes, and show the table."""
    from service.cli.demo import run
    from service.local.supervisor import CannotStart

    try:
        run(_settings(home=home, port=port), leave=leave)
    except CannotStart as error:
        raise Failed(str(error)) from error
