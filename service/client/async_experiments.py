"""The part of the client for asyncio that works with experiments and results."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from service.client import experiment_calls as calls
from service.client.async_connection import AsyncConnection
from service.client.experiment_calls import FigureFormat, FigureKind, ReportKind, TableFormat
from service.client.records import Records
from service.client.results import Comparison, Results

if TYPE_CHECKING:
    from service.experiments.request import ExperimentRequest

Json = dict[str, Any]


class AsyncExperiments:
    """The experiments of a service: `client.experiments` of an `AsyncClient`. Bundles are transferred by `Client`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def submit(
        self, request: "Mapping[str, Any] | ExperimentRequest", idempotency_key: str | None = None
    ) -> Json:
        """Queue an experiment and return it. A second submission with the same key returns the first experiment."""
        return await self._connection.run(calls.submit(request, idempotency_key))

    async def dry_run(self, request: "Mapping[str, Any] | ExperimentRequest") -> Json:
        """Return the jobs that an experiment would queue, their confounds and their cost. Stores nothing."""
        return await self._connection.run(calls.dry_run(request))

    def list(
        self,
        *,
        max_experiments: int | None = None,
        search: str | None = None,
        submitted_by: Sequence[str] | None = None,
        id: str | None = None,
    ) -> AsyncIterator[Json]:
        """Yield the experiments, newest first, page after page; see `Experiments.list`."""
        return self._connection.pages(
            calls.experiments(max_experiments, {"search": search, "submitted_by": submitted_by, "id": id})
        )

    async def builtin(self) -> Records:
        """Return the experiments that can be submitted by name."""
        return await self._connection.run(calls.builtin())

    async def get(self, experiment: str) -> Json:
        """Return one experiment: its request, the states of its jobs, progress and warnings."""
        return await self._connection.run(calls.experiment(experiment))

    async def change(
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
        return await self._connection.run(
            calls.change(experiment, name=name, priority=priority, labels=labels, grid=grid)
        )

    async def cancel(self, experiment: str) -> Json:
        """Stop all jobs of an experiment for good. Does nothing to one that is cancelled already."""
        return await self._connection.run(calls.act(experiment, "cancel"))

    async def pause(self, experiment: str) -> Json:
        """Stop all jobs of an experiment at a checkpoint, until it is resumed."""
        return await self._connection.run(calls.act(experiment, "pause"))

    async def resume(self, experiment: str) -> Json:
        """Queue all paused jobs of an experiment again."""
        return await self._connection.run(calls.act(experiment, "resume"))

    async def delete(self, experiment: str) -> None:
        """Delete an experiment whose jobs have all ended, with the jobs, their metrics and checkpoints."""
        await self._connection.request("DELETE", calls.path(experiment))

    async def share(self, experiment: str, *, anonymous: bool = False, expires_in_s: int | None = None) -> Json:
        """Create a link that shows an experiment, and return it with its token; see `Experiments.share`."""
        return await self._connection.run(calls.share(experiment, anonymous=anonymous, expires_in_s=expires_in_s))

    async def shares(self, experiment: str) -> Records:
        """Return the links of an experiment, newest first, without their tokens."""
        return await self._connection.run(calls.shares(experiment))

    async def unshare(self, experiment: str, share: str) -> None:
        """Revoke a link."""
        await self._connection.request("DELETE", calls.path(experiment, "shares", share))

    async def results(self, experiment: str | None = None, **question: Any) -> Results:
        """Return the results of an experiment, or of the jobs that `question` selects; see `Experiments.results`."""
        return await self._connection.run(calls.results(experiment, question))

    async def results_table(self, experiment: str | None, format: TableFormat, **question: Any) -> bytes:
        """Return the results as a flat file; `table` selects cells, comparisons or observations."""
        path, options = calls.results_table(experiment, format, question)
        return (await self._connection.request("GET", path, **options)).content

    async def compare(self, experiments: Sequence[str], **question: Any) -> Comparison:
        """Return the cells of several experiments side by side, and their differences; see `Experiments.compare`."""
        return await self._connection.run(calls.compare(experiments, question))

    async def compare_table(self, experiments: Sequence[str], **question: Any) -> bytes:
        """Return the comparison as CSV; `table` selects cells or differences."""
        path, options = calls.compare_table(experiments, question)
        return (await self._connection.request("GET", path, **options)).content

    async def report(self, experiment: str, kind: ReportKind = "html", **question: Any) -> str:
        """Return the report as a web page or Markdown; see `Experiments.report`."""
        path, options = calls.report(experiment, kind, question)
        return (await self._connection.request("GET", path, **options)).text

    async def figure(
        self, experiment: str, format: FigureFormat = "svg", kind: FigureKind = "results", **query: Any
    ) -> bytes:
        """Return a figure: of the results, or of the learning curves; see `Experiments.figure`."""
        path, options = calls.figure(experiment, format, kind, query)
        return (await self._connection.request("GET", path, **options)).content

    async def import_example(self) -> Json:
        """Import the finished study that comes with the service. It is not changed if the service has it already."""
        return await self._connection.run(calls.import_example())
