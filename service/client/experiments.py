"""The part of the client that works with experiments and results."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from service.client import experiment_calls as calls
from service.client.connection import Connection
from service.client.experiment_calls import FigureFormat, FigureKind, ReportKind, TableFormat
from service.client.files import reading, writing
from service.client.records import Records
from service.client.results import Comparison, Results

if TYPE_CHECKING:
    from service.experiments.request import ExperimentRequest

Json = dict[str, Any]
Checkpoints = Literal["none", "best", "latest", "all"]

_BLOCK = 1 << 20


class Experiments:
    """The experiments of a service: `client.experiments`. Methods raise as those of `Client` do."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def submit(self, request: "Mapping[str, Any] | ExperimentRequest", idempotency_key: str | None = None) -> Json:
        """Queue an experiment and return it. A second submission with the same key returns the first experiment."""
        return self._connection.run(calls.submit(request, idempotency_key))

    def dry_run(self, request: "Mapping[str, Any] | ExperimentRequest") -> Json:
        """Return the jobs that an experiment would queue, their confounds and their cost. Stores nothing."""
        return self._connection.run(calls.dry_run(request))

    def list(
        self,
        *,
        max_experiments: int | None = None,
        search: str | None = None,
        submitted_by: Sequence[str] | None = None,
        id: str | None = None,
    ) -> Iterator[Json]:
        """Yield the experiments, newest first, page after page.

        Args:
            max_experiments: Stop after this number of experiments.
            search: Part of the name, in any case.
            submitted_by: Only those that were submitted with a token of one of these names.
            id: Beginning or end of the id.
        """
        return self._connection.pages(
            calls.experiments(max_experiments, {"search": search, "submitted_by": submitted_by, "id": id})
        )

    def builtin(self) -> Records:
        """Return the experiments that can be submitted by name."""
        return self._connection.run(calls.builtin())

    def get(self, experiment: str) -> Json:
        """Return one experiment: its request, the states of its jobs, progress and warnings."""
        return self._connection.run(calls.experiment(experiment))

    def change(
        self,
        experiment: str,
        *,
        name: str | None = None,
        priority: int | None = None,
        labels: Mapping[str, str | None] | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
    ) -> Json:
        """Rename an experiment, change its priority, label its jobs, or add values to its grid: `grid={"seed": [3]}`.

        A label of None is removed; labels that are not given stay as they are.
        """
        return self._connection.run(calls.change(experiment, name=name, priority=priority, labels=labels, grid=grid))

    def cancel(self, experiment: str) -> Json:
        """Stop all jobs of an experiment for good. Does nothing to one that is cancelled already."""
        return self._connection.run(calls.act(experiment, "cancel"))

    def pause(self, experiment: str) -> Json:
        """Stop all jobs of an experiment at a checkpoint, until it is resumed."""
        return self._connection.run(calls.act(experiment, "pause"))

    def resume(self, experiment: str) -> Json:
        """Queue all paused jobs of an experiment again."""
        return self._connection.run(calls.act(experiment, "resume"))

    def delete(self, experiment: str) -> None:
        """Delete an experiment whose jobs have all ended, with the jobs, their metrics and checkpoints."""
        self._connection.request("DELETE", calls.path(experiment))

    def share(self, experiment: str, *, anonymous: bool = False, expires_in_s: int | None = None) -> Json:
        """Create a link that shows an experiment and its jobs to people without a token, and return it with its token.

        `anonymous` hides names of people and machines, notes and labels.
        """
        return self._connection.run(calls.share(experiment, anonymous=anonymous, expires_in_s=expires_in_s))

    def shares(self, experiment: str) -> Records:
        """Return the links of an experiment, newest first, without their tokens."""
        return self._connection.run(calls.shares(experiment))

    def unshare(self, experiment: str, share: str) -> None:
        """Revoke a link."""
        self._connection.request("DELETE", calls.path(experiment, "shares", share))

    def results(self, experiment: str | None = None, **question: Any) -> Results:
        """Return the results of an experiment, or of the jobs that the filters in `question` select.

        Args:
            experiment: Id of the experiment, or None for any jobs.
            question: The query parameters of `GET /v1/results`: metric, statistic, step, failed, rows, columns,
                where, confidence, and the filters of the jobs.
        """
        return self._connection.run(calls.results(experiment, question))

    def results_table(self, experiment: str | None, format: TableFormat, **question: Any) -> bytes:
        """Return the results as a flat file; `table` selects cells, comparisons or observations."""
        path, options = calls.results_table(experiment, format, question)
        return self._connection.request("GET", path, **options).content

    def compare(self, experiments: Sequence[str], **question: Any) -> Comparison:
        """Return the cells of several experiments side by side, and the differences of those that they share.

        Args:
            experiments: Ids of two or more experiments, in the order of the table.
            question: The query parameters of `GET /v1/comparison`: metric, statistic, step, failed, rows, columns,
                where, confidence.
        """
        return self._connection.run(calls.compare(experiments, question))

    def compare_table(self, experiments: Sequence[str], **question: Any) -> bytes:
        """Return the comparison as CSV; `table` selects cells or differences."""
        path, options = calls.compare_table(experiments, question)
        return self._connection.request("GET", path, **options).content

    def report(self, experiment: str, kind: ReportKind = "html", **question: Any) -> str:
        """Return the report as a web page or Markdown.

        Args:
            experiment: Id of the experiment.
            kind: html or markdown.
            question: The query parameters of the report: metric, statistic, failed, figure.
        """
        path, options = calls.report(experiment, kind, question)
        return self._connection.request("GET", path, **options).text

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
        path, options = calls.figure(experiment, format, kind, query)
        return self._connection.request("GET", path, **options).content

    def bundle(self, experiment: str, path: str | os.PathLike[str], checkpoints: Checkpoints = "none") -> Path:
        """Download the bundle of an experiment that has ended to the file `path`, or into the folder `path`.

        The file appears once it is complete; a device, a pipe or a symbolic link is then written through.
        `checkpoints` selects the checkpoints of each job that are included.
        """
        target = Path(path) / f"{experiment}.tar" if Path(path).is_dir() else Path(path)
        with writing(target) as sink:
            self._connection.save(calls.path(experiment, "bundle"), sink, params={"checkpoints": checkpoints})
        return target

    def import_bundle(self, path: str | os.PathLike[str]) -> Json:
        """Import the experiment of a bundle. An experiment that the service has already is not changed."""
        with reading(Path(path)) as file:
            size = file.seek(0, os.SEEK_END)
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(size)}
            return self._connection.json("POST", "/v1/bundles", content=_FileBody(file), headers=headers)

    def import_example(self) -> Json:
        """Import the finished study that comes with the service. It is not changed if the service has it already."""
        return self._connection.run(calls.import_example())


class _FileBody:
    """A file as a request body that can be sent more than once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        while block := self._file.read(_BLOCK):
            yield block
