"""The part of the client that is about experiments and results."""

import itertools
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import httpx2

from service.client.connection import given

if TYPE_CHECKING:
    from service.experiments.request import ExperimentRequest

Json = dict[str, Any]
TableFormat = Literal["csv", "parquet"]
ReportKind = Literal["html", "markdown", "svg"]
Checkpoints = Literal["none", "best", "latest", "all"]

MEDIA_TYPES: dict[TableFormat, str] = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
REPORTS: dict[ReportKind, str] = {"html": "text/html", "markdown": "text/markdown", "svg": "image/svg+xml"}
_BLOCK = 1 << 20


class Experiments(ABC):
    """What a `Client` does with experiments; it brings the requests."""

    def submit_experiment(
        self, request: "Mapping[str, Any] | ExperimentRequest", idempotency_key: str | None = None
    ) -> Json:
        """Queue an experiment. A key of one's own makes the same submission twice one experiment, over any time."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return self._json("POST", "/v1/experiments", json=_body(request), headers=headers)

    def dry_run(self, request: "Mapping[str, Any] | ExperimentRequest") -> Json:
        """The jobs that an experiment would make, the confounds in it and what it would cost; nothing is stored."""
        return self._json("POST", "/v1/experiments", json=_body(request), params={"dry_run": True})

    def experiments(self, *, max_experiments: int | None = None, search: str | None = None) -> Iterator[Json]:
        """The experiments, newest first, page after page."""
        filters = given({"search": search, "limit": None if max_experiments is None else min(max_experiments, 100)})
        return itertools.islice(self._pages("/v1/experiments", "cursor", filters), max_experiments)

    def builtin_experiments(self) -> list[Json]:
        """The experiments that can be submitted by their name alone."""
        found: list[Json] = self._json("GET", "/v1/experiments/builtin")["data"]
        return found

    def experiment(self, experiment: str) -> Json:
        """One experiment: its request, the states of its jobs, progress, warnings."""
        return self._json("GET", _experiment(experiment))

    def change_experiment(
        self,
        experiment: str,
        *,
        name: str | None = None,
        priority: int | None = None,
        grid: Mapping[str, Sequence[Any]] | None = None,
    ) -> Json:
        """Rename an experiment, change its priority, or add values to its grid, as in `grid={"seed": [3, 4]}`."""
        change = given({"name": name, "priority": priority, "grid": grid})
        return self._json("PATCH", _experiment(experiment), json=change)

    def cancel_experiment(self, experiment: str) -> Json:
        """Stop all its jobs for good. Repeating is harmless."""
        return self._json("POST", _experiment(experiment, "cancel"))

    def pause_experiment(self, experiment: str) -> Json:
        """Have all its jobs take a checkpoint and stop until it is resumed."""
        return self._json("POST", _experiment(experiment, "pause"))

    def resume_experiment(self, experiment: str) -> Json:
        """Queue all its paused jobs again."""
        return self._json("POST", _experiment(experiment, "resume"))

    def delete_experiment(self, experiment: str) -> None:
        """Remove an experiment whose jobs have all ended, with them and all that they have."""
        self._request("DELETE", _experiment(experiment))

    def results(self, experiment: str | None = None, **question: Any) -> Json:
        """The results of an experiment, or of the jobs that the filters in `question` choose.

        As `GET /v1/results`: metric, statistic, step, rows, columns, where, confidence; and the filters of the jobs.
        """
        return self._json("GET", _results(experiment), params=given(question))

    def results_table(self, experiment: str | None, format: TableFormat, **question: Any) -> bytes:
        """The same as a flat file; `table` chooses cells, comparisons or observations."""
        headers = {"Accept": MEDIA_TYPES[format]}
        return self._request("GET", _results(experiment), params=given(question), headers=headers).content

    def report(self, experiment: str, kind: ReportKind = "html", **question: Any) -> str:
        """What was found, as a web page, as Markdown, or its figure as SVG; `question`: metric, statistic, figure."""
        headers = {"Accept": REPORTS[kind]}
        path = _experiment(experiment, "report")
        return self._request("GET", path, params=given(question), headers=headers).text

    def bundle(self, experiment: str, path: str | os.PathLike[str], checkpoints: Checkpoints = "none") -> Path:
        """Write an experiment that has ended to the file `path`, or into the folder `path`; it appears once whole."""
        target = Path(path) / f"{experiment}.tar" if Path(path).is_dir() else Path(path)
        part = target.with_name(f"{target.name}.part")
        try:
            self._save(_experiment(experiment, "bundle"), part, params={"checkpoints": checkpoints})
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return target

    def import_bundle(self, path: str | os.PathLike[str]) -> Json:
        """Take in the experiment of a bundle. What is here already stays as it is."""
        body = _FileBody(Path(path))
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(Path(path).stat().st_size)}
        return self._json("POST", "/v1/bundles", content=body, headers=headers)

    @abstractmethod
    def _json(self, method: str, path: str, **options: Any) -> Json: ...

    @abstractmethod
    def _request(self, method: str, path: str, **options: Any) -> httpx2.Response: ...

    @abstractmethod
    def _pages(self, path: str, cursor: str, filters: Mapping[str, Any]) -> Iterator[Json]: ...

    @abstractmethod
    def _save(self, path: str, target: Path, **options: Any) -> None: ...


class _FileBody:
    """A file as the body of a request, which may be sent again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block


def _experiment(experiment: str, *rest: str) -> str:
    return "/".join(["/v1/experiments", quote(experiment, safe=""), *rest])


def _results(experiment: str | None) -> str:
    return "/v1/results" if experiment is None else _experiment(experiment, "results")


def _body(request: "Mapping[str, Any] | ExperimentRequest") -> Json:
    return dict(request) if isinstance(request, Mapping) else request.model_dump(mode="json", exclude_unset=True)
