"""Lists and tables of the API for scripts and notebooks: data frames, and tables of HTML."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from service.report import Document, as_fragment
from service.report.document import DataTable, Paragraph, Section

if TYPE_CHECKING:
    import pandas
    import polars

Json = dict[str, Any]
_SHOWN = 50
"""The number of rows that a notebook shows."""


class Records(list[Json]):
    """A list of the API, such as the metrics of a job, or of jobs: `Records(client.jobs(status="succeeded"))`."""

    def records(self) -> list[Json]:
        """Return one flat dictionary per entry: what is nested has a name with dots, as in `spec.batch_size`."""
        return [_flat(entry) for entry in self]

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a data frame of pandas, which must be installed; see `records` for its columns."""
        return to_pandas(self.records())

    def to_polars(self) -> "polars.DataFrame":
        """Return a data frame of polars, which must be installed; see `records` for its columns."""
        return to_polars(self.records())

    def _repr_html_(self) -> str:
        outer = [{name: value for name, value in entry.items() if not _is_nested(value)} for entry in self]
        return html_table("", outer)


def to_pandas(records: list[Json]) -> "pandas.DataFrame":
    """Return records as a data frame of pandas."""
    import pandas

    return pandas.DataFrame.from_records(records)


def to_polars(records: list[Json]) -> "polars.DataFrame":
    """Return records as a data frame of polars."""
    import polars

    return polars.DataFrame(records, infer_schema_length=None)


def html_table(title: str, records: list[Json]) -> str:
    """Return the first records as a table of HTML."""
    header = list(dict.fromkeys(name for record in records for name in record))
    rows = [[_text(record.get(name)) for name in header] for record in records[:_SHOWN]]
    more = [Paragraph(f"and {len(records) - _SHOWN} more")] if len(records) > _SHOWN else []
    return as_fragment(Document(title, [Section(f"{len(records)} rows", [DataTable(header, rows), *more])]))


def _flat(entry: Mapping[str, Any], prefix: str = "") -> Json:
    flat: Json = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            flat[prefix + name] = value
    return flat


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def flat_rows(rows: Iterable[Mapping[str, Any]]) -> list[Json]:
    """Return the scalars of cells, comparisons or differences, with their interval as `low` and `high`."""
    return [_scalars(row) for row in rows]


def _scalars(row: Mapping[str, Any]) -> Json:
    low, high = row.get("interval") or (None, None)
    kept = {name: value for name, value in row.items() if not _is_nested(value) and name != "interval"}
    return kept | {"low": low, "high": high}
