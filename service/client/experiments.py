"""The part of the client that works with experiments and results."""

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from service.client.connection import Connection
from service.client.files import reading, writing
from service.client.requests import given, header, path_of
from service.client.results import Results

if TYPE_CHECKING:
    from service.experiments.request import ExperimentRequest

Json = dict[str, Any]
TableFormat = Literal["csv", "parquet"]
ReportKind = Literal["html", "markdown"]
FigureFormat = Literal["svg", "pdf", "png", "csv"]
FigureKind = Literal["results", "curves"]
Checkpoints = Literal["none", "best", "latest", "all"]

MEDIA_TYPES: dict[TableFormat, str] = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
REPORTS: dict[ReportKind, str] = {"html": "text/html", "markdown": "text/markdown"}
_BLOCK = 1 << 20


class Experiments:
    """The experiments of a service: `client.experiments`. Methods raise as those of `Client` do."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def submit(self, request: "Mapping[str, Any] | ExperimentRequest", idempotency_key: str | None = None) -> Json:
        """Queue an experiment and return it. A second submission with the same key returns the first experiment."""
        headers = header("Idempotency-Key", idempotency_key or str(uuid.uuid4()))
        return self._connection.json("POST", "/v1/experiments", json=_body(request), headers=headers)

    def dry_run(self, request: "Mapping[str, Any] | ExperimentRequest") -> Json:
        """Return the jobs that an experiment would queue, their confounds and their cost. Stores nothing."""
        return self._connection.json("POST", "/v1/experiments", json=_body(request), params={"dry_run": True})

    def list(
        self,
        *,
        max_experiments: int | None = None,
        search: str | None = None,
        submitted_by: Sequence[str] | None = None,
    ) -> Iterator[Json]:
        """Yield the experiments, newest first, page after page.

        Args:
            max_experiments: Stop after this number of experiments.
            search: Part of the name, in any case.
            submitted_by: Only those that were submitted with a token of one of these names.
        """
        limit = None if max_experiments is None else min(max_experiments, 100)
        filters = given({"search": search, "submitted_by": submitted_by, "limit": limit})
        return self._connection.pages("/v1/experiments", "cursor", filters, max_experiments)

    def builtin(self) -> Sequence[Json]:
        """Return the experiments that can be submitted by name."""
        found: Sequence[Json] = self._connection.json("GET", "/v1/experiments/builtin")["data"]
        return found

    def get(self, experiment: str) -> Json:
        """Return one experiment: its request, the states of its jobs, progress and warnings."""
        return self._connection.json("GET", _experiment(experiment))

    def change(
        self,
        experiment: str,
        *,
        name: str | None = None,
        priority: int | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
    ) -> Json:
        """Rename an experiment, change its priority, or add values to its grid, as in `grid={"seed": [3, 4]}`."""
        change = given({"name": name, "priority": priority, "grid": grid})
        return self._connection.json("PATCH", _experiment(experiment), json=change)

    def cancel(self, experiment: str) -> Json:
        """Stop all jobs of an experiment for good. Does nothing to one that is cancelled already."""
        return self._connection.json("POST", _experiment(experiment, "cancel"))

    def pause(self, experiment: str) -> Json:
        """Stop all jobs of an experiment at a checkpoint, until it is resumed."""
        return self._connection.json("POST", _experiment(experiment, "pause"))

    def resume(self, experiment: str) -> Json:
        """Queue all paused jobs of an experiment again."""
        return self._connection.json("POST", _experiment(experiment, "resume"))

    def delete(self, experiment: str) -> None:
        """Delete an experiment whose jobs have all ended, with the jobs, their metrics and checkpoints."""
        self._connection.request("DELETE", _experiment(experiment))

    def share(self, experiment: str, *, anonymous: bool = False, expires_in_s: int | None = None) -> Json:
        """Create a link that shows an experiment and its jobs to people without a token, and return it with its token.

        `anonymous` hides names of people and machines, notes and labels.
        """
        asked = {"anonymous": anonymous, "expires_in_s": expires_in_s}
        return self._connection.json("POST", _experiment(experiment, "shares"), json=asked)

    def shares(self, experiment: str) -> Sequence[Json]:
        """Return the links of an experiment, newest first, without their tokens."""
        found: Sequence[Json] = self._connection.json("GET", _experiment(experiment, "shares"))["data"]
        return found

    def unshare(self, experiment: str, share: str) -> None:
        """Revoke a link."""
        self._connection.request("DELETE", _experiment(experiment, "shares", share))

    def results(self, experiment: str | None = None, **question: Any) -> Results:
        """Return the results of an experiment, or of the jobs that the filters in `question` select.

        Args:
            experiment: Id of the experiment, or None for any jobs.
            question: The query parameters of `GET /v1/results`: metric, statistic, step, failed, rows, columns,
                where, confidence, and the filters of the jobs.
        """
        return Results(self._connection.json("GET", _results(experiment), params=given(question)))

    def results_table(self, experiment: str | None, format: TableFormat, **question: Any) -> bytes:
        """Return the results as a flat file; `table` selects cells, comparisons or observations."""
        headers = {"Accept": MEDIA_TYPES[format]}
        return self._connection.request("GET", _results(experiment), params=given(question), headers=headers).content

    def report(self, experiment: str, kind: ReportKind = "html", **question: Any) -> str:
        """Return the report as a web page or Markdown.

        Args:
            experiment: Id of the experiment.
            kind: html or markdown.
            question: The query parameters of the report: metric, statistic, failed, figure.
        """
        headers = {"Accept": REPORTS[kind]}
        path = _experiment(experiment, "report")
        return self._connection.request("GET", path, params=given(question), headers=headers).text

    def figure(
        self, experiment: str, format: FigureFormat = "svg", kind: FigureKind = "results", **query: Any
    ) -> bytes:
        """Return a figure: of the results, or of the learning curves.

        Args:
            experiment: Id of the experiment.
            format: svg, pdf, png, or csv for what is drawn.
            kind: results or curves.
            query: The query parameters of the figure, such as width (in mm), title, log_y and metric.
        """
        name = "figure" if kind == "results" else "curves"
        return self._connection.request("GET", _experiment(experiment, f"{name}.{format}"), params=given(query)).content

    def bundle(self, experiment: str, path: str | os.PathLike[str], checkpoints: Checkpoints = "none") -> Path:
        """Download the bundle of an experiment that has ended to the file `path`, or into the folder `path`.

        The file appears once it is complete; a device, a pipe or a symbolic link is then written through.
        `checkpoints` selects the checkpoints of each job that are included.
        """
        target = Path(path) / f"{experiment}.tar" if Path(path).is_dir() else Path(path)
        with writing(target) as sink:
            self._connection.save(_experiment(experiment, "bundle"), sink, params={"checkpoints": checkpoints})
        return target

    def import_bundle(self, path: str | os.PathLike[str]) -> Json:
        """Import the experiment of a bundle. An experiment that the service has already is not changed."""
        with reading(Path(path)) as file:
            size = file.seek(0, os.SEEK_END)
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(size)}
            return self._connection.json("POST", "/v1/bundles", content=_FileBody(file), headers=headers)

    def import_example(self) -> Json:
        """Import the finished study that comes with the service. It is not changed if the service has it already."""
        return self._connection.json("POST", "/v1/bundles/example")


class _FileBody:
    """A file as a request body that can be sent more than once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        while block := self._file.read(_BLOCK):
            yield block


def _experiment(experiment: str, *rest: str) -> str:
    return path_of("experiments", experiment, *rest)


def _results(experiment: str | None) -> str:
    return "/v1/results" if experiment is None else _experiment(experiment, "results")


def _body(request: "Mapping[str, Any] | ExperimentRequest") -> Json:
    return dict(request) if isinstance(request, Mapping) else request.model_dump(mode="json", exclude_unset=True)
