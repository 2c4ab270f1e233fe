"""Runs of MLflow on a tracking server: one per job, identified by its tag `normlab.job_id`."""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from service.client import ApiError, Client
from service.export.runs import ExportError, Point, Run, seconds

JOB_ID = "normlab.job_id"
CHECKPOINT = "normlab.checkpoint"
_METRICS_A_REQUEST = 1000
_PARAMETERS_A_REQUEST = 100
_LONGEST_PARAMETER = 6000
_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED", "queued": "SCHEDULED"}
Entry = TypeVar("Entry")
Found = dict[tuple[str, int], tuple[int, float | None]]
"""Points by metric and step: the time in ms, and the value, None for one that is not a number."""


class MLflowSink:
    """An experiment of a tracking server.

    `checkpoints` also stores the weights of each job's best checkpoint, once it has ended. Raises `ExportError` if
    MLflow is not installed, or the server refuses a request.
    """

    def __init__(self, client: Client, tracking_uri: str, experiment: str, *, checkpoints: bool) -> None:
        for quiet in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
            os.environ.setdefault(quiet, "true")
        try:
            from mlflow.tracking import MlflowClient
        except ModuleNotFoundError as error:
            raise ExportError('MLflow is not installed here: pip install "normlab[mlflow]"') from error
        self._client = client
        self._checkpoints = checkpoints
        self._exported: dict[str, tuple[str, Found]] = {}
        with _export_errors(tracking_uri):
            self._mlflow = MlflowClient(tracking_uri)
            found = self._mlflow.get_experiment_by_name(experiment)
            self._experiment_id: str = found.experiment_id if found else self._mlflow.create_experiment(experiment)
        self._tracking_uri = tracking_uri

    def update(self, run: Run) -> None:
        """See `Sink.update`."""
        with _export_errors(self._tracking_uri):
            run_id, there = self._exported.get(run.id) or self._find(run) or self._create(run)
            wanted = _by_step(run.points)
            if any(wanted.get(key) != point for key, point in there.items()):
                # MLflow cannot remove values from a run, so a new run replaces it.
                self._mlflow.delete_run(run_id)
                run_id, there = self._create(run)
            missing = [(key, point) for key, point in wanted.items() if key not in there]
            self._log(run_id, missing)
            self._exported[run.id] = run_id, wanted
            self._set_status(run, run_id)
            if run.ended and self._checkpoints:
                self._store_checkpoint(run, run_id)
            if run.ended:
                del self._exported[run.id]

    def _find(self, run: Run) -> tuple[str, Found] | None:
        query = f"tags.`{JOB_ID}` = '{run.id}'"
        runs = self._mlflow.search_runs([self._experiment_id], query, max_results=1)
        if not runs:
            return None
        run_id: str = runs[0].info.run_id
        there: Found = {}
        for name in runs[0].data.metrics:
            for metric in self._mlflow.get_metric_history(run_id, name):
                there[name, metric.step] = metric.timestamp, _comparable(metric.value)
        return run_id, there

    def _create(self, run: Run) -> tuple[str, Found]:
        from mlflow.entities import Param

        started = run.job["started_at"] or run.job["created_at"]
        created = self._mlflow.create_run(
            self._experiment_id, start_time=_ms(seconds(started)), tags={JOB_ID: run.id}, run_name=run.name
        )
        run_id: str = created.info.run_id
        parameters = [Param(name, _text(value)) for name, value in run.parameters.items()]
        for some in _chunks(parameters, _PARAMETERS_A_REQUEST):
            self._mlflow.log_batch(run_id, params=some)
        self._mlflow.log_dict(run_id, run.job["spec"], "spec.json")
        return run_id, {}

    def _log(self, run_id: str, points: Sequence[tuple[tuple[str, int], tuple[int, float | None]]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, math.nan if value is None else value, time, step) for (name, step), (time, value) in points
        ]
        for some in _chunks(metrics, _METRICS_A_REQUEST):
            self._mlflow.log_batch(run_id, metrics=some)

    def _set_status(self, run: Run, run_id: str) -> None:
        from mlflow.entities import RunTag

        job = run.job
        tags = {
            "normlab.status": job["status"],
            "normlab.attempt": str(len(job["attempts"])),
            "normlab.url": f"{self._client.base_url}/v1/jobs/{run.id}",
            **({"normlab.experiment": job["experiment"]} if job["experiment"] else {}),
            # The parameter of this name cannot be changed once the precision `auto` is resolved.
            **({"normlab.precision": job["precision"]} if job["precision"] else {}),
            **({"normlab.error": job["error"]["message"]} if job["error"] else {}),
            **{f"normlab.label.{key}": value for key, value in job["labels"].items()},
        }
        self._mlflow.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        status = _STATUS.get(job["status"], "RUNNING")
        if run.ended:
            self._mlflow.set_terminated(run_id, status, _ms(seconds(job["finished_at"])))
        else:
            self._mlflow.update_run(run_id, status)

    def _store_checkpoint(self, run: Run, run_id: str) -> None:
        try:
            best = self._client.checkpoint((run.id, "best"))
        except ApiError as error:
            if error.status == 404:
                return
            raise
        if self._mlflow.get_run(run_id).data.tags.get(CHECKPOINT) == best["id"]:
            return
        with tempfile.TemporaryDirectory(prefix="normlab-") as folder:
            for file in ("model.safetensors", "manifest.json"):
                if any(entry["name"] == file for entry in best["files"]):
                    path = self._client.download(best["id"], file, Path(folder))
                    self._mlflow.log_artifact(run_id, str(path), "checkpoint")
        self._mlflow.set_tag(run_id, CHECKPOINT, best["id"])


def _by_step(points: Sequence[Point]) -> Found:
    return {(point.name, point.step): (_ms(point.time), _comparable(point.value)) for point in points}


def _comparable(value: float) -> float | None:
    return None if math.isnan(value) else value


def _ms(time: float) -> int:
    return round(1000 * time)


def _text(value: str | float | bool | None) -> str:
    text = value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text[:_LONGEST_PARAMETER]


def _chunks(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))


@contextmanager
def _export_errors(tracking_uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = " ".join(str(error).split())[:500]
        raise ExportError(f"MLflow at {tracking_uri} refused the request: {reason}") from error
