"""Tables of jobs on a terminal, and the formats that all tables share."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from service.cli.folding import Facts, Grid
from worker.metrics import METRICS, best_note

Json = dict[str, Any]

STYLES = {
    "queued": "cyan",
    "starting": "blue",
    "running": "blue",
    "pausing": "yellow",
    "paused": "yellow",
    "cancelling": "yellow",
    "lost": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "magenta",
}


def per_cent(value: float | None) -> str:
    """Format a fraction in per cent."""
    return "–" if value is None else f"{100 * value:.1f} %"


def duration(seconds: float | None) -> str:
    """Format seconds as `42 s`, `3:07` or `2:03:04`."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def size_text(size: int | None) -> str:
    """Format a number of bytes as `512 B`, `1.1 MB` or `2.0 GB`."""
    if size is None:
        return "–"
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, (len(str(size)) - 1) // 3)
    return f"{size / 1000**power:.1f} {units[power]}" if power else f"{size} B"


def status_text(status: str) -> Text:
    """Format a status with its colour."""
    return Text(status, style=STYLES.get(status, ""))


def jobs_table(jobs: Iterable[Json]) -> Grid:
    """Lay out jobs, one per row, with who submitted them where tokens have names."""
    right = ("BATCH", "EPOCH", "ERROR", "BEST", "AGE")
    columns = ("ID", "STATUS", "NORMALIZATION", "BATCH", "MODEL", "SEED", "EPOCH", "ERROR", "BEST", "AGE")
    listed = list(jobs)
    named = any(job.get("submitted_by") for job in listed)
    table = Grid(*columns, *(["BY"] if named else []), "NAME", right=right)
    for job in listed:
        spec = job["spec"]
        summary = job["summary"].get(job["metric"]) or {}
        table.add_row(
            job["id"],
            status_text(job["status"]),
            job["normalization"],
            str(spec["batch_size"]),
            spec["model"],
            str(spec["seed"]),
            f"{job['progress']['epoch'] if job['progress'] else 0}/{spec['epochs']}",
            per_cent(summary.get("last")),
            per_cent(summary.get("best")),
            duration(age_s(job["created_at"])),
            *([Text(job.get("submitted_by") or "–")] if named else []),
            Text(job["title"]),
        )
    return table


def job_table(job: Json) -> Facts:
    """Lay out one job: its specification, progress, metrics, attempts and history."""
    spec = job["spec"]
    dataset = spec["dataset"]
    images = f"{dataset['name']}, {dataset.get('train_limit') or 'all'} training images"
    table = Facts()
    table.add_row("job", job["id"])
    if job["name"]:
        table.add_row("name", Text(job["name"]))
    table.add_row("status", status_text(job["status"]))
    if job["error"]:
        at = "" if job["error"].get("step") is None else f" (step {job['error']['step']})"
        table.add_row("error", Text(f"{job['error']['message']}{at}", style="red"))
    workers = spec.get("num_workers", 1)
    batch_size = f"batch size {spec['batch_size']}" + (f" per worker, {workers} workers" if workers > 1 else "")
    table.add_row("trains", f"{spec['model']}, {job['normalization']}, {batch_size}, {images}")
    table.add_row("seed", str(spec["seed"]))
    table.add_row("precision", job["precision"] or "auto, resolved at the start")
    if submitter := job.get("submitted_by"):
        table.add_row("submitted by", Text(submitter))
    if job.get("extends"):
        table.add_row("continues", job["extends"])
    if job["labels"]:
        table.add_row("labels", labels_text(job["labels"]))
    if progress := job["progress"]:
        total = progress["total_steps"] or "?"
        table.add_row("progress", f"epoch {progress['epoch']}/{spec['epochs']}, step {progress['step']}/{total}")
        if progress["eta_s"] is not None:
            table.add_row("left", duration(progress["eta_s"]))
    if job["duration_s"]:
        table.add_row("ran", duration(job["duration_s"]))
    for metric, values in sorted(job["summary"].items()):
        note = best_note(metric, holdout=bool(dataset.get("holdout")))
        table.add_row(metric, _summary(metric, values, note))
    for attempt in job.get("attempts", ()):
        ended = attempt["outcome"] or "runs"
        reason = f": {attempt['reason']}" if attempt["reason"] else ""
        device = f" on {attempt['device']}" if attempt["device"] else ""
        workers = ", ".join(worker["worker"] for worker in attempt["workers"])
        table.add_row(f"attempt {attempt['number']}", Text(f"{workers}{device}, {ended}{reason}"))
        if attempt["cpu_s"] is not None:
            table.add_row("", _usage(attempt))
    for number, change in enumerate(job.get("history", ())):
        reason = f"  {change['reason']}" if change.get("reason") else ""
        line = Text(f"{zoned(change['time'])}  ").append_text(status_text(change["status"])).append(reason)
        table.add_row("" if number else "history", line)
    return table


def _usage(attempt: Json) -> str:
    gpu = attempt["peak_gpu_memory_bytes"]
    on_gpu = "" if gpu is None else f", {size_text(gpu)} of GPU memory"
    if (busy := attempt["gpu_utilization"]) is not None:
        on_gpu += f", GPU utilization {100 * busy:.0f} %"
    memory = size_text(attempt["peak_memory_bytes"])
    return f"{duration(attempt['cpu_s'])} of CPU time, up to {memory} of memory{on_gpu}"


def _summary(metric: str, values: Json, best_note: str | None) -> str:
    percent = metric in METRICS and METRICS[metric].format == "percent"
    show = per_cent if percent else "{:.4g}".format
    note = f" ({best_note})" if best_note else ""
    return f"last {show(values['last'])}, best {show(values['best'])} at step {values['best_step']}{note}"


def labels_text(labels: Mapping[str, str]) -> Text:
    """Format labels as `study=paper who=ann`."""
    return Text(" ".join(f"{key}={value}" for key, value in labels.items()))


def zoned(time: str) -> str:
    """Format a time of the API as `2026-01-31 15:04:05 UTC+01:00`, in the time zone of this machine."""
    here = datetime.fromisoformat(time).astimezone()
    return f"{here:%Y-%m-%d %H:%M:%S} UTC" + (here.isoformat()[-6:] if here.utcoffset() else "")


def age_s(time: str) -> float:
    """Return the seconds since a time in ISO 8601, at least 0."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
