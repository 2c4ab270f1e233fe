"""Results as flat tables: CSV, and Parquet if pyarrow is installed."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from service.api.schemas.result import Results
from service.errors import NotAcceptable

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
LATEX = "application/x-latex"
MEDIA_TYPES = ("application/json", CSV, PARQUET)

Row = dict[str, Any]


def cells(results: Results) -> list[Row]:
    """Return one row per cell."""
    kept = (
        "row",
        "column",
        "n",
        "mean",
        "sd",
        "low",
        "high",
        "min",
        "max",
        "without_value",
        "failed",
        "images_per_s",
        "device_s",
    )
    rows = []
    about = _about(results)
    for cell in results.cells:
        low, high = cell.interval or (None, None)
        row = cell.model_dump(mode="json") | {"low": low, "high": high}
        rows.append({name: row[name] for name in kept} | {"jobs": len(cell.jobs), "note": cell.note} | about)
    return rows


def comparisons(results: Results) -> list[Row]:
    """Return one row per comparison."""
    rows = []
    for comparison in results.comparisons:
        low, high = comparison.interval or (None, None)
        row = comparison.model_dump(mode="json", exclude={"interval"})
        rows.append(row | {"low": low, "high": high} | _about(results))
    return rows


def observations(results: Results) -> list[Row]:
    """Return one row per value that the statistics use."""
    return [
        {"row": cell.row, "column": cell.column, **value.model_dump()} | _about(results)
        for cell in results.cells
        for value in cell.values
    ]


def choices(results: Results) -> list[Row]:
    """Return one row per combination of values that a tuned experiment searches."""
    if results.tuning is None:
        return []
    return [
        {"row": choice.row, "column": choice.column, "values": candidate.label, "holdout_error": candidate.error}
        | {"n": candidate.n, "failed": candidate.failed, "jobs": candidate.jobs}
        | {"chosen": candidate.values == choice.values}
        | {"at_the_edge": "; ".join(choice.edges) if candidate.values == choice.values else ""}
        for choice in results.tuning.choices
        for candidate in choice.candidates
    ]


def _about(results: Results) -> Row:
    return {
        "metric": results.metric,
        "statistic": results.statistic_title,
        "datasets": "; ".join(results.datasets),
    } | ({"stage": results.stage} if results.stage else {})


TABLES: dict[str, Callable[[Results], list[Row]]] = {
    "cells": cells,
    "comparisons": comparisons,
    "observations": observations,
    "choices": choices,
}


def as_csv(rows: Sequence[Row]) -> str:
    """Encode rows as CSV with a header; no rows give an empty text."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else [])
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_parquet(rows: Sequence[Row]) -> bytes:
    """Encode rows as a Parquet file. Raises `NotAcceptable` if pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise NotAcceptable(
            "This service cannot write Parquet: install normlab[parquet] on the server, or request text/csv."
        ) from error
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), sink)
    return sink.getvalue()
