"""`normlab jobs`, `show`, `edit`, `cancel`, `pause`, `resume`, `retry`, `extend` and `delete`."""

from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from service.cli import experiments
from service.cli.exits import Invalid
from service.cli.ids import FORM, JobId, JobIds, argument, experiment_id, job_id, option, whole_id
from service.cli.output import announce, console, print_json
from service.cli.session import AsJson, Json, Label, RemoveLabel, connect, label_of, labels_of
from service.cli.tables import job_table, jobs_table
from service.client import Client


def find(
    context: typer.Context,
    status: Annotated[list[str] | None, typer.Option(help="Only jobs in this status. May be repeated.")] = None,
    normalization: Annotated[list[str] | None, typer.Option(help="Only jobs with this normalization.")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Only jobs with this batch size.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only jobs that train this model.")] = None,
    experiment: Annotated[str | None, option("experiment", help="Only jobs of this experiment.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only jobs with this label, as KEY=VALUE.")] = None,
    submitted_by: Annotated[
        list[str] | None, typer.Option(help="Only those submitted with a token of this name. May be repeated.")
    ] = None,
    search: Annotated[str | None, typer.Option(help="Only jobs whose name contains this text.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    labels = [label_of(entry) for entry in label or ()]
    with connect(context) as client:
        found = list(
            client.jobs(
                max_jobs=limit,
                status=status,
                normalization=normalization,
                batch_size=batch_size,
                model=model,
                experiment=experiment and experiment_id(client, experiment),
                label=[f"{key}:{value}" for key, value in labels] or None,
                submitted_by=submitted_by,
                search=search,
            )
        )
    if as_json:
        print_json(found)
    elif found:
        console().print(jobs_table(found))
    else:
        console().print("No jobs.", style="dim")


def show(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Show a job: its specification, its progress and its attempts."""
    with connect(context) as client:
        found = client.job(job_id(client, job))
    if as_json:
        print_json(found)
    else:
        console().print(job_table(found))


def cancel(context: typer.Context, jobs: JobIds, as_json: AsJson = False) -> None:
    """Stop jobs for good."""
    _each(context, jobs, Client.cancel, as_json)


def pause(context: typer.Context, jobs: JobIds, as_json: AsJson = False) -> None:
    """Save a checkpoint of each job and stop until it is resumed."""
    _each(context, jobs, Client.pause, as_json)


def resume(context: typer.Context, jobs: JobIds, as_json: AsJson = False) -> None:
    """Queue paused jobs again, from their checkpoints."""
    _each(context, jobs, Client.resume, as_json)


def retry(context: typer.Context, jobs: JobIds, as_json: AsJson = False) -> None:
    """Queue a new job for each job that failed or was cancelled, and print the new jobs."""
    _each(context, jobs, Client.retry, as_json)


def edit(
    context: typer.Context,
    job: Annotated[str, argument("job", f"Id of the job, or of an experiment after `experiment_`: {FORM}")],
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    notes: Annotated[str | None, typer.Option(help="New notes, which replace the old ones.")] = None,
    label: Label = None,
    remove_label: RemoveLabel = None,
    priority: Annotated[int | None, typer.Option(help="New priority; jobs of a higher one start first.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change the name, the notes, the labels or the priority of a job. Labels that are not given stay as they are.

    Labels and priority of an experiment are those of all its jobs; it has no notes.
    """
    labels = labels_of(label, remove_label)
    if job.startswith("experiment_"):
        if notes is not None:
            raise Invalid("--notes: an experiment has none; give them to its jobs")
        experiments.edit(context, job, name, label, remove_label, priority, as_json)
        return
    if name is None and notes is None and priority is None and not labels:
        raise Invalid("nothing to change: give --name, --notes, --label, --remove-label or --priority")
    change = partial(Client.change, name=name, notes=notes, labels=labels or None, priority=priority)
    _each(context, [job], change, as_json)


def extend(
    context: typer.Context,
    job: JobId,
    epochs: Annotated[int, typer.Option(help="Epochs of the whole training, with those done.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Queue a new job that continues a succeeded one for more epochs, and print the new job.

    Example: normlab extend job_01 --epochs 60
    """
    with connect(context) as client:
        answer = client.extend(job_id(client, job), epochs)
        announce(answer, f"{answer['id']}  {answer['title']}  {answer['status']}", as_json=as_json)


def delete(context: typer.Context, jobs: JobIds) -> None:
    """Delete jobs that have ended, with their metrics and checkpoints."""
    with connect(context) as client:
        for job in jobs:
            job = whole_id(client, "job", job)
            client.delete(job)
            announce(None, f"{job}  deleted")


def _each(context: typer.Context, jobs: list[str], verb: Callable[[Client, str], Json], as_json: bool) -> None:
    with connect(context, fields={"label": "/labels", "remove_label": "/labels"}) as client:
        for job in jobs:
            answer = verb(client, job_id(client, job))
            announce(answer, f"{answer['id']}  {answer['title']}  {answer['status']}", as_json=as_json)
