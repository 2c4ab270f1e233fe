"""`normlab watch`: follow jobs until they end, with progress bars on a terminal and lines elsewhere."""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.progress import Task, TaskID
from rich.text import Text

from service.cli.exits import Exit
from service.cli.folding import FoldingProgress, Value, bar
from service.cli.ids import FORMS, argument, job_id
from service.cli.output import command_name, complain, console, print_json_line
from service.cli.session import AsJson, Json, connect
from service.cli.tables import duration, per_cent, status_text
from service.client import Client, Event
from service.jobs import TERMINAL

RESET = "the database of the service was replaced; the events of the job follow from the first"


def watch(
    context: typer.Context,
    jobs: Annotated[
        list[str] | None,
        argument("job", f"Ids of the jobs: {FORMS} Default: all that have not ended."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow jobs until they end. Ctrl-C stops watching, not the jobs. Exit with 1 unless every job succeeded."""
    with connect(context) as client:
        if not jobs:
            unfinished = ["queued", "starting", "running", "pausing", "paused", "cancelling", "lost"]
            jobs = [job["id"] for job in client.jobs(status=unfinished, sort="created_at")]
            if not jobs and not as_json:
                console().print("No job is unfinished.", style="dim")
        follow(client, [job_id(client, job) for job in jobs], as_json=as_json)


def follow(client: Client, jobs: Sequence[str], *, as_json: bool = False) -> None:
    """Show `jobs` until all have ended.

    Raises:
        typer.Exit: With 1 unless every job succeeded, with 130 after Ctrl-C.
    """
    jobs = list(dict.fromkeys(jobs))
    display: Display
    out = console()
    if as_json:
        display = JsonLines()
    elif out.is_terminal:
        display = Bars(out)
    else:
        display = Lines(out)
    try:
        ended = to_the_end(client, jobs, display)
    except KeyboardInterrupt:
        plural = len(jobs) > 1
        complain(
            f"stopped watching; the job{'s keep' if plural else ' keeps'} running. "
            f"`{command_name()} watch {' '.join(jobs)}` watches {'them' if plural else 'it'} again, "
            f"`normlab cancel` stops {'them' if plural else 'it'}"
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    if any(job.status != "succeeded" for job in ended):
        raise typer.Exit(Exit.FAILED)


@dataclass
class Followed:
    """The state of a followed job."""

    id: str
    title: str
    metric: str
    epochs: int
    status: str
    epoch: int = 0
    step: int = 0
    total_steps: int | None = None
    images_per_s: float | None = None
    eta_s: float | None = None
    train_loss: float | None = None
    error: float | None = None
    failure: str | None = None

    @classmethod
    def of(cls, job: Json) -> "Followed":
        """Read the state from a job of the API."""
        progress = job["progress"] or {}
        metric: str = job["metric"]
        followed = cls(job["id"], job["title"], metric, job["spec"]["epochs"], job["status"])
        followed._take(progress)
        followed.error = (job["summary"].get(metric) or {}).get("last")
        followed.failure = (job["error"] or {}).get("message")
        return followed

    def learn(self, event: Event) -> None:
        """Update the state from an event."""
        match event.type:
            case "status" | "end":
                self.status = event.data["status"]
            case "reset":
                self.epoch = self.step = 0
                self.total_steps = self.train_loss = self.error = None
            case "started" | "progress" | "metrics":
                self._take(event.data)
                self.error = event.data.get(self.metric, self.error)
        if self.status != "running":
            self.images_per_s = self.eta_s = None

    def _take(self, data: Json) -> None:
        for name in ("epoch", "step", "total_steps", "images_per_s", "eta_s", "train_loss"):
            if data.get(name) is not None:
                setattr(self, name, data[name])


class Display(Protocol):
    """An output for followed jobs."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exception: object) -> None: ...

    def add(self, job: Followed) -> None:
        """Start to show a job."""

    def show(self, job: Followed, event: Event) -> None:
        """Show an event of a job."""


def to_the_end(client: Client, jobs: Iterable[str], display: Display) -> list[Followed]:
    """Follow `jobs` on `display` until all have ended.

    Raises:
        ClientError: If the service stops answering.
    """
    followed = {job: Followed.of(client.job(job)) for job in jobs}
    events: queue.SimpleQueue[tuple[str, Event | BaseException]] = queue.SimpleQueue()

    def read(job: str) -> None:
        try:
            for event in client.events(job):
                events.put((job, event))
        except Exception as error:
            events.put((job, error))

    with display:
        for job in followed.values():
            display.add(job)
        for job_id in followed:
            threading.Thread(target=read, args=(job_id,), daemon=True).start()
        running = set(followed)
        while running:
            job_id, event = events.get()
            if isinstance(event, BaseException):
                raise event
            job = followed[job_id]
            job.learn(event)
            if event.type == "end":
                running.discard(job_id)
                job.failure = (client.job(job_id)["error"] or {}).get("message")
            display.show(job, event)
    return list(followed.values())


class Lines:
    """Prints a line for each change of status, evaluation and warning."""

    def __init__(self, out: Console) -> None:
        self._out = out

    def __enter__(self) -> object:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def add(self, job: Followed) -> None:
        """Print nothing: the events follow."""

    def show(self, job: Followed, event: Event) -> None:
        """Print the line of an event, if it has one."""
        line = self._line(job, event)
        if line:
            self._out.print(Text(f"{job.title}: {line}"), soft_wrap=True)

    def _line(self, job: Followed, event: Event) -> str | None:
        data = event.data
        match event.type:
            case "status" if data["status"] not in TERMINAL:
                return f"{data['status']}" + (f" ({data['reason']})" if data.get("reason") else "")
            case "metrics" if data["kind"] == "eval":
                loss = "" if job.train_loss is None else f", train loss {job.train_loss:.3f}"
                return f"epoch {data['epoch']}/{job.epochs}, {job.metric} {per_cent(data.get(job.metric))}{loss}"
            case "log" if data["level"] in ("warning", "error"):
                return f"{data['level']}: {data['message']}"
            case "reset":
                return RESET
            case "end":
                return job.status + (f": {job.failure}" if job.failure else "")
        return None


class JsonLines:
    """Prints every event as a line of JSON."""

    def __enter__(self) -> object:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def add(self, job: Followed) -> None:
        """Print nothing: the events follow."""

    def show(self, job: Followed, event: Event) -> None:
        """Print the event."""
        print_json_line({"job": job.id, "event": event.type, **event.data})


class Bars:
    """Draws a progress bar for each job."""

    def __init__(self, out: Console) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._progress = FoldingProgress(
            Value(lambda task: task.description),
            Value(lambda task: status_text(_job(task).status)),
            bar(),
            *(Value(partial(_figure, figure)) for figure in FIGURES),
            count=_count,
            console=out,
            refresh_per_second=5,
        )

    def __enter__(self) -> object:
        return self._progress.__enter__()

    def __exit__(self, *exception: Any) -> None:
        self._progress.__exit__(*exception)

    def add(self, job: Followed) -> None:
        """Draw the bar of a job."""
        self._tasks[job.id] = self._progress.add_task(job.title, total=1, job=job)
        self._draw(job)

    def show(self, job: Followed, event: Event) -> None:
        """Update the bar of a job. Warnings are printed above the bars."""
        if event.type == "log" and event.data["level"] in ("warning", "error"):
            self._progress.console.print(Text(f"{job.title}: {event.data['message']}", style="yellow"))
        if event.type == "reset":
            self._progress.console.print(Text(f"{job.title}: {RESET}", style="yellow"))
        if event.type == "end" and job.failure:
            self._progress.console.print(Text(f"{job.title}: {job.failure}", style="red"))
        self._draw(job)

    def _draw(self, job: Followed) -> None:
        self._progress.update(self._tasks[job.id], completed=job.step, total=job.total_steps or 1)


FIGURES: dict[str, Callable[[Followed], str]] = {
    "epoch": lambda job: f"{job.epoch}/{job.epochs}",
    "train_loss": lambda job: f"loss {job.train_loss:.2f}",
    "error": lambda job: f"error {per_cent(job.error)}",
    "images_per_s": lambda job: f"{job.images_per_s:.0f} img/s",
    "eta_s": lambda job: f"{duration(job.eta_s)} left",
}
"""Figures of a job by the attribute of `Followed`. One that is not known yet is left out."""


def _job(task: Task) -> Followed:
    job: Followed = task.fields["job"]
    return job


def _figure(name: str, task: Task) -> str:
    return "" if getattr(_job(task), name) is None else FIGURES[name](_job(task))


def _count(tasks: Sequence[Task]) -> str:
    counts = Counter(_job(task).status for task in tasks)
    return f"{len(tasks)} more: " + ", ".join(f"{count} {status}" for status, count in counts.items())
