"""Results for scripts and notebooks: a dictionary that can become a data frame or a table of HTML."""

from typing import TYPE_CHECKING, Any, Literal, get_args

from service.report import as_fragment, tables

if TYPE_CHECKING:
    import pandas
    import polars

ResultTable = Literal["cells", "comparisons", "observations"]


class Results(dict[str, Any]):
    """The results of an experiment as the API returns them."""

    def records(self, table: ResultTable = "cells") -> list[dict[str, Any]]:
        """Return a table as one flat dictionary per row.

        Args:
            table: `cells`: the mean, the interval (`low`, `high`) and the number of seeds of each row and column.
                `comparisons`: the difference of two rows in a column. `observations`: the value of each job.

        Raises:
            ValueError: There is no such table.
        """
        match table:
            case "cells" | "comparisons":
                return [_flat(entry) for entry in self[table]]
            case "observations":
                return [
                    {"row": cell["row"], "column": cell["column"], **value}
                    for cell in self["cells"]
                    for value in cell["values"]
                ]
        raise ValueError(f"table is {table!r}, which is none of {', '.join(get_args(ResultTable))}")

    def to_pandas(self, table: ResultTable = "cells") -> "pandas.DataFrame":
        """Return a table as a data frame of pandas, which must be installed; see `records` for the tables."""
        import pandas

        return pandas.DataFrame.from_records(self.records(table))

    def to_polars(self, table: ResultTable = "cells") -> "polars.DataFrame":
        """Return a table as a data frame of polars, which must be installed; see `records` for the tables."""
        import polars

        return polars.DataFrame(self.records(table), infer_schema_length=None)

    def _repr_html_(self) -> str:
        return as_fragment(tables(self))


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the scalars of a cell or a comparison, with its interval as two of them."""
    low, high = entry.get("interval") or (None, None)
    kept = {name: value for name, value in entry.items() if not isinstance(value, list | dict) and name != "interval"}
    return kept | {"low": low, "high": high}
