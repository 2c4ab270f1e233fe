"""The requests about experiments and results, which `Client` and `AsyncClient` send."""

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from service.client.calls import Call, Listing, call, listed
from service.client.records import Records
from service.client.requests import given, header, path_of
from service.client.results import Comparison, Results

if TYPE_CHECKING:
    from service.experiments.request import ExperimentRequest

Json = dict[str, Any]
Options = dict[str, Any]
"""Those of `httpx2.Client.request`, for an answer that is a text or a file."""
TableFormat = Literal["csv", "parquet"]
ReportKind = Literal["html", "markdown"]
FigureFormat = Literal["svg", "pdf", "png", "csv"]
FigureKind = Literal["results", "curves"]

MEDIA_TYPES: dict[TableFormat, str] = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
REPORTS: dict[ReportKind, str] = {"html": "text/html", "markdown": "text/markdown"}


def submit(request: "Mapping[str, Any] | ExperimentRequest", idempotency_key: str | None) -> Call[Json]:
    """Queue an experiment."""
    headers = header("Idempotency-Key", idempotency_key or str(uuid.uuid4()))
    return call("POST", "/v1/experiments", json=_body(request), headers=headers)


def dry_run(request: "Mapping[str, Any] | ExperimentRequest") -> Call[Json]:
    """Say what an experiment would queue."""
    return call("POST", "/v1/experiments", json=_body(request), params={"dry_run": True})


def experiments(max_experiments: int | None, filters: Mapping[str, Any]) -> Listing:
    """List experiments."""
    limit = None if max_experiments is None else min(max_experiments, 100)
    filters = {**filters, "limit": limit}
    return Listing("/v1/experiments", "cursor", filters, max_experiments)


def builtin() -> Call[Records]:
    """List the built-in experiments."""
    return listed("/v1/experiments/builtin")


def experiment(id_: str) -> Call[Json]:
    """Read an experiment."""
    return call("GET", path(id_))


def change(id_: str, **fields: Any) -> Call[Json]:
    """Change the fields of an experiment that are not None."""
    return call("PATCH", path(id_), json=given(fields))


def act(id_: str, verb: str) -> Call[Json]:
    """Cancel, pause or resume an experiment."""
    return call("POST", path(id_, verb))


def share(id_: str, *, anonymous: bool, expires_in_s: int | None) -> Call[Json]:
    """Create a link that shows an experiment."""
    return call("POST", path(id_, "shares"), json={"anonymous": anonymous, "expires_in_s": expires_in_s})


def shares(id_: str) -> Call[Records]:
    """List the links of an experiment."""
    return listed(path(id_, "shares"))


def results(id_: str | None, question: Mapping[str, Any]) -> Call[Results]:
    """Read results."""
    return Call("GET", _results(id_), Results, {"params": given(question)})


def results_table(id_: str | None, format: TableFormat, question: Mapping[str, Any]) -> tuple[str, Options]:
    """Read results as a flat file."""
    return _results(id_), {"params": given(question), "headers": {"Accept": MEDIA_TYPES[format]}}


def compare(ids: Sequence[str], question: Mapping[str, Any]) -> Call[Comparison]:
    """Compare experiments."""
    return Call("GET", COMPARISON, Comparison, {"params": _compared(ids, question)})


def compare_table(ids: Sequence[str], question: Mapping[str, Any]) -> tuple[str, Options]:
    """Compare experiments, as a flat file."""
    return COMPARISON, {"params": _compared(ids, question), "headers": {"Accept": MEDIA_TYPES["csv"]}}


def report(id_: str, kind: ReportKind, question: Mapping[str, Any]) -> tuple[str, Options]:
    """Read the report of an experiment."""
    return path(id_, "report"), {"params": given(question), "headers": {"Accept": REPORTS[kind]}}


def figure(id_: str, format: FigureFormat, kind: FigureKind, query: Mapping[str, Any]) -> tuple[str, Options]:
    """Read a figure of an experiment."""
    name = "figure" if kind == "results" else "curves"
    return path(id_, f"{name}.{format}"), {"params": given(query)}


def import_example() -> Call[Json]:
    """Import the study that comes with the service."""
    return call("POST", "/v1/bundles/example")


def path(experiment: str, *rest: str) -> str:
    """Return the path of an experiment, or of what is below it."""
    return path_of("experiments", experiment, *rest)


COMPARISON = "/v1/comparison"


def _results(experiment: str | None) -> str:
    return "/v1/results" if experiment is None else path(experiment, "results")


def _compared(ids: Sequence[str], question: Mapping[str, Any]) -> Json:
    return given({"experiment": list(ids), **question})


def _body(request: "Mapping[str, Any] | ExperimentRequest") -> Json:
    return dict(request) if isinstance(request, Mapping) else request.model_dump(mode="json", exclude_unset=True)
